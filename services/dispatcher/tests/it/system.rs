//! A dispatcher with what it needs around it: database, topics, routes, and a reader of its reports.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devstack::testing::{TestDatabase, eventually};
use dispatcher::{DispatcherConfig, EndpointSettings};
use kafka::KafkaConfig;
use kafka::producer::{Appended, Producer, ProducerRecord};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Message, Offset, TopicPartitionList};
use reqwest::{Client, Method, StatusCode};
use runtime::health::Health;
use runtime::lifecycle::Supervisor;
use runtime::postgres::{self, PostgresConfig};
use runtime::seal::SealingKey;
use schemas::codec;
use schemas::ids::{EventId, OrgId};
use schemas::records::{Dedup, DeliveryAttempt, Event};
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use sqlx::{Connection, PgConnection};
use tenancy::TenancyConfig;
pub(crate) use testkit::api::Answer;
use testkit::api::{client, send, serve, start_tenancy};
use testkit::receiver::Receiver;
use testkit::records::event;
use testkit::setup;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const KEY: &str = "key-of-shop";
pub(crate) const OTHER_KEY: &str = "key-of-others";
pub(crate) const OPERATOR_TOKEN: &str = "the operator token of these tests";
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PARTITIONS: i32 = 2;

pub(crate) struct System {
    pub pool: PgPool,
    pub kafka: KafkaConfig,
    pub producer: Producer,
    pub org: OrgId,
    pub sealing: SealingKey,
    pub(crate) base_url: String,
    pub(crate) client: Client,
    attempts: Arc<Mutex<Vec<DeliveryAttempt>>>,
    running: Vec<Running>,
    _stop: DropGuard,
    database: TestDatabase,
}

struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn config() -> DispatcherConfig {
    let mut config = DispatcherConfig::default().on_this_machine();
    config.session_timeout = Duration::from_secs(6);
    config
}

fn settings() -> EndpointSettings {
    EndpointSettings::new(config().egress)
}

impl System {
    /// Everything but a dispatcher.
    pub(crate) async fn without_dispatcher() -> Self {
        let (database, unused) = setup::database().await;
        unused.close().await;
        let mut postgres = PostgresConfig::new(&database.url);
        postgres.max_connections = 8;
        let pool = postgres::connect(&postgres).unwrap();
        let kafka = setup::topics(PARTITIONS).await;
        let stop = CancellationToken::new();
        let sealing = SealingKey::from_bytes([3; 32]);
        let config = TenancyConfig {
            set_default_endpoint: Some(dispatcher::default_endpoint(sealing.clone(), settings())),
            ..TenancyConfig::new(Some(OPERATOR_TOKEN.to_owned()), false)
        };
        let tenancy = start_tenancy(pool.clone(), config, &stop);
        let org = tenancy.apply_dev_keys(&format!("{KEY}=shop,{OTHER_KEY}=others"), true).await.unwrap().unwrap();
        let routes = dispatcher::routes(tenancy.authenticator(), pool.clone(), sealing.clone(), settings());
        let read_pool = postgres::with_settings(&pool, tenancy::READ_SETTINGS);
        let limits = settings().open_limits;
        let deliveries = dispatcher::delivery_routes(tenancy.authenticator(), read_pool, sealing.clone(), limits);
        let routes = routes.merge(deliveries).merge(tenancy::routes(tenancy));
        let base_url = format!("{}/v1", serve(routes, &stop).await);
        let attempts = Arc::new(Mutex::new(Vec::new()));
        read_attempts(&kafka, attempts.clone(), stop.clone());
        Self {
            producer: setup::producer(&kafka),
            pool,
            kafka,
            org,
            sealing,
            base_url,
            client: client(),
            attempts,
            running: Vec::new(),
            _stop: stop.drop_guard(),
            database,
        }
    }

    pub(crate) async fn start() -> Self {
        Self::start_with(config()).await
    }

    pub(crate) async fn start_with(config: DispatcherConfig) -> Self {
        let mut system = Self::without_dispatcher().await;
        system.start_dispatcher(config);
        system
    }

    pub(crate) fn start_dispatcher(&mut self, config: DispatcherConfig) -> Health {
        let health = Health::new();
        let shutdown = CancellationToken::new();
        let (pool, producer, kafka, sealing) =
            (self.pool.clone(), self.producer.clone(), self.kafka.clone(), self.sealing.clone());
        let mut supervisor = Supervisor::new(health.clone(), shutdown.clone());
        dispatcher::append_system_events(&mut supervisor, pool.clone(), producer.clone(), kafka.topics.events.clone());
        dispatcher::start(&mut supervisor, config, pool, producer, kafka, sealing).unwrap();
        let task = tokio::spawn(supervisor.run(PATIENCE));
        self.running.push(Running { shutdown, task });
        health
    }

    /// Ends the last dispatcher in order.
    pub(crate) async fn shut_down(&mut self) {
        let mut running = self.running.pop().unwrap();
        running.shutdown.cancel();
        tokio::time::timeout(PATIENCE, &mut running.task).await.expect("the dispatcher does not end").unwrap().unwrap();
    }

    /// Ends the last dispatcher as a crash would: nothing of it goes on, nothing is written down.
    pub(crate) async fn crash(&mut self) {
        let mut running = self.running.pop().unwrap();
        running.task.abort();
        assert!((&mut running.task).await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn call(&self, method: Method, path: &str, key: &str, body: Option<Value>) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.base_url)).bearer_auth(key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        send(request).await
    }

    /// Makes an endpoint for a receiver; `more` are further fields. Answers the reply.
    pub(crate) async fn endpoint(&self, receiver: &Receiver, more: Value) -> Value {
        let mut body = json!({"url": receiver.url()});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.call(Method::POST, "/endpoints", KEY, Some(body)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }

    pub(crate) async fn change_endpoint(&self, id: &Value, body: Value) {
        let answer = self.call(Method::PATCH, &format!("/endpoints/{}", id.as_str().unwrap()), KEY, Some(body)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }

    pub(crate) fn event(&self, event_type: &str) -> Event {
        let payload = r#"{"n": 1.0}"#.to_owned();
        Event { event_type: event_type.to_owned(), payload, ..event(self.org) }
    }

    pub(crate) fn keyed_event(&self, key: &str) -> Event {
        let dedup = Dedup { window_seconds: 60, ..Dedup::dedup_id(key, b"") };
        Event { dedup: Some(dedup), ..self.event("keyed") }
    }

    /// Writes an event to the log as ingest does.
    pub(crate) async fn publish(&self, event: &Event) -> Appended {
        self.publish_with(event, &[("triggers-key-id", b"0192f0c1-2345-7abc-8def-0123456789ab")]).await
    }

    /// Writes an event to the log with these headers besides the content type.
    pub(crate) async fn publish_with(&self, event: &Event, headers: &[(&str, &[u8])]) -> Appended {
        let (key, value) = (event.org_id.to_string(), codec::encode_event(event).unwrap());
        let headers = [&[("content-type", &b"application/avro"[..])], headers].concat();
        let record = ProducerRecord {
            topic: &self.kafka.topics.events,
            key: Some(key.as_bytes()),
            value: Some(&value),
            headers: &headers,
        };
        self.producer.publish(record).await.unwrap()
    }

    /// Writes an event to a partition of the test's choice.
    pub(crate) async fn publish_to(&self, event: &Event, partition: i32) -> Appended {
        let producer: FutureProducer = self.kafka.client("test").create().unwrap();
        let (key, value) = (event.org_id.to_string(), codec::encode_event(event).unwrap());
        let headers = OwnedHeaders::new().insert(Header { key: "content-type", value: Some("application/avro") });
        let record =
            FutureRecord::to(&self.kafka.topics.events).partition(partition).key(&key).payload(&value).headers(headers);
        let delivered = producer.send(record, PATIENCE).await.unwrap();
        Appended { partition: delivered.partition, offset: delivered.offset, timestamp_ms: None }
    }

    /// Writes so many plain events and answers their ids.
    pub(crate) async fn publish_many(&self, count: usize) -> Vec<String> {
        let events: Vec<Event> = (0..count).map(|_| self.event("many")).collect();
        futures_util::future::join_all(events.iter().map(|event| self.publish(event))).await;
        events.iter().map(|event| event.event_id.to_string()).collect()
    }

    /// The reports of an event so far, in their order.
    pub(crate) fn reports_of(&self, event: EventId) -> Vec<DeliveryAttempt> {
        self.attempts.lock().unwrap().iter().filter(|attempt| attempt.event_id == event).cloned().collect()
    }

    pub(crate) async fn wait_for_reports(&self, event: EventId, count: usize) -> Vec<DeliveryAttempt> {
        let what = format!("{count} reports on the deliveries topic");
        eventually(PATIENCE, &what, || async { Some(self.reports_of(event)).filter(|reports| reports.len() >= count) })
            .await
    }

    /// Waits until the position has passed everything that is on the log now.
    pub(crate) async fn wait_until_passed(&self, appended: &Appended) {
        eventually(PATIENCE, "the position passes the record", || async {
            let sql = "SELECT next_offset FROM consumer_positions WHERE consumer = 'dispatcher' AND partition = $1";
            let next: Option<(i64,)> =
                sqlx::query_as(sql).bind(appended.partition).fetch_optional(&self.pool).await.unwrap();
            next.filter(|(next,)| *next > appended.offset)
        })
        .await;
    }

    /// Rows of deliveries as (state, attempts, has a lease); those that wait for the duplicate decision have the state
    /// `awaiting_dedup`.
    pub(crate) async fn schedule(&self) -> Vec<(String, i32, bool)> {
        sqlx::query_as(
            "SELECT state, attempts, leased FROM (
                 SELECT delivery_id, CASE WHEN q.is_held AND state = 'pending' THEN 'held' ELSE state END AS state,
                        attempts, lease_id IS NOT NULL AS leased
                 FROM delivery_schedule LEFT JOIN endpoint_queues q USING (endpoint_id)
                 UNION ALL SELECT delivery_id, 'awaiting_dedup', 0, false FROM deliveries_awaiting_dedup) AS both_tables
             ORDER BY delivery_id",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// Waits until so many rows wait for the duplicate decision, and nothing else has a row.
    pub(crate) async fn wait_for_awaiting(&self, count: usize) {
        self.wait_for_schedule(&format!("{count} rows wait for the duplicate decision"), |rows| {
            rows.len() == count && rows.iter().all(|(state, ..)| state == "awaiting_dedup")
        })
        .await;
    }

    pub(crate) async fn wait_for_schedule(&self, what: &str, wanted: impl Fn(&[(String, i32, bool)]) -> bool) {
        eventually(PATIENCE, what, || async {
            let rows = self.schedule().await;
            wanted(&rows).then_some(())
        })
        .await;
    }

    /// Takes the dispatcher's partitions away as another instance would, and answers the highest epoch then.
    pub(crate) async fn overtake(&self) -> i64 {
        let sql = "UPDATE consumer_positions SET epoch = epoch + 1 WHERE consumer = 'dispatcher' RETURNING epoch";
        let epochs: Vec<(i64,)> = sqlx::query_as(sql).fetch_all(&self.pool).await.unwrap();
        epochs.into_iter().map(|(epoch,)| epoch).max().unwrap()
    }

    /// For a connection of the test's own.
    /// The highest epoch of the dispatcher's partitions: grows with every claim.
    pub(crate) async fn epoch(&self) -> i64 {
        let sql = "SELECT COALESCE(max(epoch), 0) FROM consumer_positions WHERE consumer = 'dispatcher'";
        let (epoch,): (i64,) = sqlx::query_as(sql).fetch_one(&self.pool).await.unwrap();
        epoch
    }

    /// Breaks every connection to the database, again and again, for a while.
    pub(crate) async fn break_database(&self, during: Duration) {
        let (server, _) = self.database.url.rsplit_once('/').unwrap();
        let name = self.database.url.rsplit_once('/').unwrap().1.split('?').next().unwrap().to_owned();
        let mut connection = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
        let until = Instant::now() + during;
        while Instant::now() < until {
            sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
                .bind(&name)
                .execute(&mut connection)
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn database_url(&self) -> String {
        self.database.url.clone()
    }

    /// As if all leases and delays were over.
    pub(crate) async fn make_all_due(&self) {
        self.make_due("state = 'pending'").await;
    }

    /// As if leases and delays of the pending rows with this condition were over.
    pub(crate) async fn make_due(&self, condition: &'static str) {
        let sql = format!(
            "WITH due AS (UPDATE delivery_schedule SET due_at = now() WHERE {condition} RETURNING endpoint_id),
                  lanes AS (UPDATE ordered_lanes SET due_at = now())
             UPDATE endpoint_queues SET next_due_at = now() WHERE endpoint_id IN (SELECT endpoint_id FROM due)"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
    }

    /// Shows an event in the view, as the materializer would.
    pub(crate) async fn show(&self, event: &Event, appended: &Appended, acknowledged: bool) {
        sqlx::query(
            "INSERT INTO view.events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type,
                                      payload,
                                      acknowledged_at)
             VALUES ($1, $2, 1, $3, $4, now(), $5, $6::json, CASE WHEN $7 THEN now() END)",
        )
        .bind(event.org_id.as_uuid())
        .bind(event.event_id.as_uuid())
        .bind(appended.partition)
        .bind(appended.offset)
        .bind(&event.event_type)
        .bind(&event.payload)
        .bind(acknowledged)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// Moves the materializer's position behind a record.
    pub(crate) async fn pass_view(&self, appended: &Appended) {
        sqlx::query(
            "INSERT INTO consumer_positions (consumer, topic, partition, next_offset)
             VALUES ('materializer', $1, $2, $3)
             ON CONFLICT (consumer, topic, partition) DO UPDATE SET next_offset = EXCLUDED.next_offset",
        )
        .bind(&self.kafka.topics.events)
        .bind(appended.partition)
        .bind(appended.offset + 1)
        .execute(&self.pool)
        .await
        .unwrap();
    }
}

/// Collects what appears on the deliveries topic.
fn read_attempts(kafka: &KafkaConfig, attempts: Arc<Mutex<Vec<DeliveryAttempt>>>, stop: CancellationToken) {
    let mut client = kafka.client("test");
    client.set("group.id", "unused").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = client.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(&kafka.topics.deliveries, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    std::thread::spawn(move || {
        while !stop.is_cancelled() {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                let attempt = codec::decode_attempt(message.payload().unwrap()).unwrap();
                assert_eq!(message.key().unwrap(), attempt.org_id.to_string().as_bytes());
                attempts.lock().unwrap().push(attempt);
            }
        }
    });
}
