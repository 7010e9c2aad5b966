//! A stub of the product: the routes that the load generator uses, in memory, with an optional fault.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use sqlx::PgPool;
use time::format_description::well_known::Rfc3339;
use time::{Duration as TimeSpan, OffsetDateTime};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// The fault of event number `AT`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StubFault {
    None,
    /// The event is accepted and not stored.
    Lost,
    /// The event is stored twice.
    Doubled,
    /// The event is stored before all others of its organization.
    Misplaced,
    /// The event is answered 503.
    Refused,
    /// The event is answered 503, and stored.
    RefusedAndStored,
    /// Two more events are stored than were sent.
    Invented,
    /// The inbox cannot be read after the run.
    Unreadable,
    /// All requests wait for 300 ms.
    Stalled,
}

const AT: usize = 50;
/// Delay until an event is in the database.
pub(crate) const STORE_DELAY: Duration = Duration::from_millis(60);

#[derive(Default)]
struct Organization {
    key: String,
    events: Vec<(Uuid, OffsetDateTime)>,
}

struct StubData {
    fault: StubFault,
    started: OffsetDateTime,
    /// Number of events, for increasing times and for the fault.
    events: Mutex<usize>,
    organizations: Mutex<HashMap<Uuid, Organization>>,
    stall: tokio::sync::RwLock<()>,
    database: Option<PgPool>,
}

type StubState = State<Arc<StubData>>;

/// A running stub; it stops when dropped.
pub(crate) struct Stub {
    pub url: String,
    inner: Arc<StubData>,
    server: JoinHandle<()>,
}

impl Stub {
    pub(crate) async fn start(fault: StubFault, database: Option<PgPool>) -> Self {
        let inner = Arc::new(StubData {
            fault,
            started: OffsetDateTime::UNIX_EPOCH + TimeSpan::days(20_000),
            events: Mutex::new(0),
            organizations: Mutex::default(),
            stall: tokio::sync::RwLock::new(()),
            database,
        });
        let app = Router::new()
            .route("/v1/organizations", post(organization))
            .route("/v1/organizations/{id}/keys", post(key))
            .route("/v1/keys", get(keys))
            .route("/v1/events", post(event))
            .route("/v1/inbox", get(inbox))
            .with_state(Arc::clone(&inner));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, inner, server }
    }

    /// Number of created organizations.
    pub(crate) fn organizations(&self) -> usize {
        self.inner.organizations.lock().unwrap().len()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The organization of the key of the request.
fn owner(inner: &StubData, headers: &HeaderMap) -> Result<Uuid, StatusCode> {
    let key = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .unwrap_or_default();
    let organizations = inner.organizations.lock().unwrap();
    organizations
        .iter()
        .find(|(_, organization)| organization.key == key)
        .map(|(id, _)| *id)
        .ok_or(StatusCode::UNAUTHORIZED)
}

async fn organization(State(inner): StubState, headers: HeaderMap) -> Result<(StatusCode, Json<Value>), StatusCode> {
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != "Bearer operator") {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let id = Uuid::now_v7();
    inner.organizations.lock().unwrap().insert(id, Organization::default());
    Ok((StatusCode::CREATED, Json(json!({"id": id}))))
}

async fn key(State(inner): StubState, Path(id): Path<Uuid>) -> Result<(StatusCode, Json<Value>), StatusCode> {
    let key = format!("key-{id}");
    inner.organizations.lock().unwrap().get_mut(&id).ok_or(StatusCode::NOT_FOUND)?.key.clone_from(&key);
    Ok((StatusCode::CREATED, Json(json!({"key": key}))))
}

async fn keys(State(inner): StubState, headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    Ok(Json(json!({"organization_id": owner(&inner, &headers)?})))
}

async fn event(
    State(inner): StubState,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Value>), StatusCode> {
    let organization_id = owner(&inner, &headers)?;
    if body["payload"]["order"].as_str().is_none() {
        return Err(StatusCode::BAD_REQUEST);
    }
    let id = Uuid::now_v7();
    let number = {
        let mut events = inner.events.lock().unwrap();
        *events += 1;
        *events
    };
    if number == AT && inner.fault == StubFault::Stalled {
        let stalled = inner.stall.write().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(stalled);
    }
    drop(inner.stall.read().await);
    let fault = if number == AT { inner.fault } else { StubFault::None };
    {
        let mut organizations = inner.organizations.lock().unwrap();
        let stored = &mut organizations.get_mut(&organization_id).unwrap().events;
        let time = inner.started + TimeSpan::milliseconds(number as i64);
        match fault {
            StubFault::Lost | StubFault::Refused => {}
            StubFault::Doubled => stored.extend([(id, time), (id, time)]),
            // With a matching time, so that only the order of requests and replies shows it.
            StubFault::Misplaced => stored.insert(0, (id, inner.started)),
            StubFault::Invented => stored.extend([(id, time), (Uuid::now_v7(), time), (Uuid::now_v7(), time)]),
            StubFault::None | StubFault::RefusedAndStored | StubFault::Unreadable | StubFault::Stalled => {
                stored.push((id, time))
            }
        }
    }
    if let Some(pool) = inner.database.clone() {
        tokio::spawn(store(pool, organization_id, id, number as i64));
    }
    match fault {
        StubFault::Refused | StubFault::RefusedAndStored => Err(StatusCode::SERVICE_UNAVAILABLE),
        _ => Ok((StatusCode::CREATED, Json(json!({"event_id": id, "status": "accepted"})))),
    }
}

async fn store(pool: PgPool, organization: Uuid, id: Uuid, offset: i64) {
    tokio::time::sleep(STORE_DELAY).await;
    sqlx::query(
        "INSERT INTO view.events \
         (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload) \
         VALUES ($1, $2, 1, 0, $3, now(), 'x', '{}')",
    )
    .bind(organization)
    .bind(id)
    .bind(offset)
    .execute(&pool)
    .await
    .unwrap();
}

async fn inbox(
    State(inner): StubState,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, StatusCode> {
    let organization = owner(&inner, &headers)?;
    let organizations = inner.organizations.lock().unwrap();
    let stored = &organizations[&organization].events;
    if query.get("order").is_some_and(|order| order == "desc") {
        return Ok(Json(json!({"events": [], "resume_cursor": stored.len().to_string(), "has_more": true})));
    }
    let from: usize =
        query.get("cursor").map_or(Ok(0), |cursor| cursor.parse()).map_err(|_| StatusCode::BAD_REQUEST)?;
    if inner.fault == StubFault::Unreadable {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    // Small pages, so that paging is needed.
    let to = stored.len().min(from + 30);
    let events: Vec<Value> = stored[from..to]
        .iter()
        .map(|(id, time)| json!({"event_id": id, "timestamp": time.format(&Rfc3339).unwrap()}))
        .collect();
    Ok(Json(json!({"events": events, "resume_cursor": to.to_string(), "has_more": to < stored.len()})))
}
