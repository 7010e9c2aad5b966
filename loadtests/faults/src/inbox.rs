//! Reads the view as its users do: inboxes over HTTP, and the duplicate decisions from the SQL view of the contract.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use crate::check::Duplicates;
use crate::client::Api;
use crate::ledger::ShownEvent;

/// Wait before a retry.
const PAUSE: Duration = Duration::from_millis(200);

/// One page of an inbox.
#[derive(Deserialize)]
pub(crate) struct InboxPage {
    /// Events in the order of the log.
    pub events: Vec<InboxEvent>,
    /// Cursor that continues after this page.
    pub resume_cursor: String,
    /// Whether there are more events now.
    pub has_more: bool,
}

/// The fields of an event that the suite checks.
#[derive(Deserialize)]
pub(crate) struct InboxEvent {
    event_id: Uuid,
    payload: EventPayload,
    acknowledged_at: Option<String>,
    delivery_status: String,
}

#[derive(Deserialize)]
struct EventPayload {
    tag: String,
    org: Uuid,
}

impl From<InboxEvent> for ShownEvent {
    fn from(event: InboxEvent) -> Self {
        Self {
            id: event.event_id,
            tag: event.payload.tag,
            org: event.payload.org,
            acknowledged: event.acknowledged_at.is_some(),
            delivery_status: event.delivery_status,
        }
    }
}

/// All events in the inbox of the key's organization, oldest first, acknowledged events included. Retries failed
/// requests until `deadline`.
pub(crate) async fn read(api: &Api, key: &str, deadline: Instant) -> anyhow::Result<Vec<ShownEvent>> {
    let mut shown = Vec::new();
    let mut query = "limit=1000&include_acknowledged=true".to_owned();
    loop {
        let page = match page(api, key, &query).await {
            Ok(page) => page,
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        shown.extend(page.events.into_iter().map(ShownEvent::from));
        if !page.has_more {
            return Ok(shown);
        }
        query = format!("limit=1000&include_acknowledged=true&cursor={}", page.resume_cursor);
    }
}

/// One page of an inbox.
pub(crate) async fn page(api: &Api, key: &str, query: &str) -> anyhow::Result<InboxPage> {
    let (status, body) = api.get(&format!("/v1/inbox?{query}"), key).await?;
    if status != 200 {
        bail!("the inbox answered {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("the inbox answered invalid JSON")
}

pub(crate) async fn duplicates(pool: &PgPool) -> anyhow::Result<Duplicates> {
    let rows = sqlx::query("SELECT org_id, event_id, canonical_id FROM contract.duplicates").fetch_all(pool).await?;
    let duplicate = |row: &sqlx::postgres::PgRow| {
        Ok(((row.try_get("org_id")?, row.try_get("event_id")?), row.try_get::<Uuid, _>("canonical_id")?))
    };
    rows.iter().map(duplicate).collect()
}

/// The id of the event that the API shows under `id`; `None` if there is none.
pub(crate) async fn resolve(api: &Api, key: &str, id: Uuid) -> anyhow::Result<Option<Uuid>> {
    #[derive(Deserialize)]
    struct Found {
        event_id: Uuid,
    }
    let (status, body) = api.get(&format!("/v1/events/{id}"), key).await?;
    match status {
        200 => Ok(Some(serde_json::from_slice::<Found>(&body)?.event_id)),
        404 => Ok(None),
        _ => bail!("GET of the event {id} answered {status}"),
    }
}
