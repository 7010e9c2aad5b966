//! Helpers: a mounted inbox with two organizations, rows in its view, and requests to it.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use devstack::testing::{TestDatabase, eventually};
use http::{HeaderMap, Method, Request, StatusCode};
use http_server::{Budgets, MountOptions, ServerLimits};
use kafka::KafkaConfig;
use kafka::producer::{Producer, ProducerSettings};
use kafka::read_your_writes::RecentWrites;
use materializer::InboxState;
use runtime::postgres::{self, PostgresConfig};
use runtime::seal::SealingKey;
use schemas::ids::{EventId, OrgId};
use schemas::topics::TopicNames;
use serde_json::Value;
use sqlx::postgres::PgPool;
use tenancy::{BudgetSettings, OrganizationBudgets, TenancyConfig};
use testkit::api::start_tenancy;
use testkit::setup;
use time::OffsetDateTime;
use time::macros::datetime;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;
use uuid::Uuid;

/// When the first event of most tests is accepted.
pub(crate) const START: OffsetDateTime = datetime!(2026-11-21 9:00 UTC);
/// How long a condition may take to come true.
const WITHIN: Duration = Duration::from_secs(10);

/// An inbox, mounted, with the organization "Alpha" (key "alpha") and "Beta" (key "beta").
pub(crate) struct Bench {
    pub router: Router,
    pub pool: PgPool,
    /// The pool that the inbox itself reads with.
    pub view: PgPool,
    pub kafka: KafkaConfig,
    pub sealing: SealingKey,
    pub written: RecentWrites,
    pub shutdown: CancellationToken,
    state: InboxState,
    pub alpha: OrgId,
    pub beta: OrgId,
    _stop: DropGuard,
    _database: TestDatabase,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::start_with(|url| PostgresConfig::new(url), None).await
    }

    /// With a pool of its own for the inbox, and other brokers than the shared ones.
    pub(crate) async fn start_with(inbox_pool: impl FnOnce(&str) -> PostgresConfig, brokers: Option<&str>) -> Self {
        Self::start_as(inbox_pool, brokers, &BudgetSettings::default()).await
    }

    /// With other budgets.
    pub(crate) async fn start_within(budgets: &BudgetSettings) -> Self {
        Self::start_as(|url| PostgresConfig::new(url), None, budgets).await
    }

    async fn start_as(
        inbox_pool: impl FnOnce(&str) -> PostgresConfig,
        brokers: Option<&str>,
        budgets: &BudgetSettings,
    ) -> Self {
        let (database, pool) = setup::database().await;
        // Rows of tests begin there.
        sqlx::query("SELECT view_ensure_time_partition('view', $1, 5)").bind(START).execute(&pool).await.unwrap();
        let shutdown = CancellationToken::new();
        let budgets = OrganizationBudgets::new(budgets, Budgets::new(&ServerLimits::default()));
        let config = TenancyConfig { budgets, ..TenancyConfig::new(None, false) };
        let tenancy = start_tenancy(pool.clone(), config, &shutdown);
        tenancy.apply_dev_keys("alpha=Alpha,beta=Beta", true).await.unwrap();
        let mut kafka = setup::kafka().await;
        if let Some(brokers) = brokers {
            brokers.clone_into(&mut kafka.brokers);
        }
        let settings = ProducerSettings { delivery_timeout: Duration::from_secs(3), ..ProducerSettings::default() };
        let producer = Producer::new(&kafka, settings).unwrap();
        let (sealing, written) = (SealingKey::from_bytes([5; 32]), RecentWrites::default());
        let view =
            postgres::with_settings(&postgres::connect(&inbox_pool(&database.url)).unwrap(), tenancy::READ_SETTINGS);
        let state = InboxState::new(
            tenancy.authenticator(),
            view.clone(),
            producer,
            kafka.topics.clone(),
            sealing.clone(),
            written.clone(),
        );
        let state = state.until(shutdown.clone());
        let api = materializer::routes(state.clone()).merge(tenancy::routes(tenancy));
        Self {
            router: http_server::mount(api, MountOptions::default()),
            alpha: organization(&pool, "Alpha").await,
            beta: organization(&pool, "Beta").await,
            pool,
            view,
            kafka,
            sealing,
            written,
            _stop: shutdown.clone().drop_guard(),
            shutdown,
            state,
            _database: database,
        }
    }

    pub(crate) fn topics(&self) -> &TopicNames {
        &self.kafka.topics
    }

    /// Until a read waits for the view to catch up, and no request for events.
    pub(crate) async fn a_read_waits(&self) {
        let waits = async || (self.state.is_polling() && self.state.waiting() == 0).then_some(());
        eventually(WITHIN, "a read waits for the view", waits).await;
    }

    /// Until so many requests wait for events.
    pub(crate) async fn requests_wait(&self, count: usize) {
        let wait = async || (self.waiting() == count).then_some(());
        eventually(WITHIN, "requests wait for events", wait).await;
    }

    /// How many requests wait for events.
    pub(crate) fn waiting(&self) -> usize {
        self.state.waiting()
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, key: &str, body: &str) -> Answer {
        self.ask_with(method, path, key, body, &[]).await
    }

    pub(crate) async fn ask_with(
        &self,
        method: Method,
        path: &str,
        key: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let started = Instant::now();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text, took: started.elapsed() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, "alpha", "").await
    }

    /// A page that must be one.
    pub(crate) async fn page(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        answer.json()
    }

    /// A key of Alpha that sees only these event types.
    pub(crate) async fn restricted_key(&self, event_types: &[&str]) -> String {
        let body =
            serde_json::json!({"name": "narrow", "role": "consume", "event_types": event_types, "environment": "test"});
        let answer = self.ask(Method::POST, "/v1/keys", "alpha", &body.to_string()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()["key"].as_str().unwrap().to_owned()
    }

    /// Puts events into the view, and moves its positions past them, in one transaction as the projector does.
    pub(crate) async fn show(&self, organization: OrgId, rows: &[ViewEvent]) {
        let mut transaction = postgres::begin(&self.pool).await.unwrap();
        sqlx::query(
            "INSERT INTO view.events
                 (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload,
                                      acknowledged_at, delivery_status)
             SELECT $1, * FROM UNNEST($2::uuid[], $3::integer[], $4::integer[], $5::bigint[], $6::timestamptz[],
                                      $7::text[], $8::json[], $9::timestamptz[], $10::text[])",
        )
        .bind(organization.as_uuid())
        .bind(rows.iter().map(|row| row.id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.log_epoch).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.partition).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.offset).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.accepted_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.event_type.clone()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.payload.clone()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.acknowledged_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.delivery_status).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO consumer_positions (consumer, topic, partition, log_epoch, next_offset, record_time)
             SELECT $1, $2, p, max(e), max(o) + 1, max(a)
             FROM UNNEST($3::integer[], $4::integer[], $5::bigint[], $6::timestamptz[]) AS t (p, e, o, a) GROUP BY p
             ON CONFLICT (consumer, topic, partition) DO UPDATE
             SET log_epoch = excluded.log_epoch, record_time = excluded.record_time,
                 next_offset = CASE WHEN excluded.log_epoch > consumer_positions.log_epoch THEN excluded.next_offset
                               ELSE greatest(consumer_positions.next_offset, excluded.next_offset) END",
        )
        .bind(materializer::projector::CONSUMER)
        .bind(&self.topics().events)
        .bind(rows.iter().map(|row| row.partition).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.log_epoch).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.offset).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.accepted_at).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await
        .unwrap();
        transaction.commit().await.unwrap();
    }
}

async fn organization(pool: &PgPool, name: &str) -> OrgId {
    let id: Uuid =
        sqlx::query_scalar("SELECT id FROM organizations WHERE name = $1").bind(name).fetch_one(pool).await.unwrap();
    OrgId::from_uuid(id)
}

/// One row of `view.events`.
#[derive(Debug, Clone)]
pub(crate) struct ViewEvent {
    pub id: EventId,
    pub log_epoch: i32,
    pub partition: i32,
    pub offset: i64,
    pub accepted_at: OffsetDateTime,
    pub event_type: String,
    pub payload: Value,
    pub acknowledged_at: Option<OffsetDateTime>,
    pub delivery_status: &'static str,
}

/// An open event of type "a", accepted `offset` seconds after [`START`].
pub(crate) fn row(partition: i32, offset: i64) -> ViewEvent {
    ViewEvent {
        id: EventId::generate(),
        log_epoch: 1,
        partition,
        offset,
        accepted_at: START + time::Duration::seconds(offset),
        event_type: "a".to_owned(),
        payload: Value::from(offset),
        acknowledged_at: None,
        delivery_status: "pending",
    }
}

pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub took: Duration,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

/// The ids on a page, in order.
pub(crate) fn ids(page: &Value) -> Vec<EventId> {
    page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().parse().unwrap())
        .collect()
}

pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} of {value}"))
}
