//! Test bench: topics and a database per test, instances of ingest on free ports, and reading the log back.

use std::collections::HashMap;
use std::time::Duration;

use devstack::testing::{TestDatabase, read_topic};
use ingest::IngestState;
use kafka::KafkaConfig;
use kafka::producer::Producer;
use kafka::read_your_writes::RecentWrites;
use rdkafka::message::{Headers as _, OwnedMessage};
use rdkafka::{Message as _, Timestamp};
use reqwest::{Client, RequestBuilder};
use runtime::health::Health;
use runtime::lifecycle::Supervisor;
use runtime::seal::SealingKey;
use schemas::ids::OrgId;
use schemas::records::Event;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tenancy::{Tenancy, TenancyConfig};
pub(crate) use testkit::api::{Answer, send};
use testkit::api::{client, serve, start_tenancy};
use testkit::setup;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const PARTITIONS: i32 = 3;
/// An admin key of the bench's organization.
pub(crate) const KEY: &str = "the-key-of-these-tests";
/// How long the tasks of an instance may take to stop.
const DEADLINE: Duration = Duration::from_secs(10);
const SEALING: [u8; 32] = [7; 32];

pub(crate) struct Bench {
    pub pool: PgPool,
    pub kafka: KafkaConfig,
    pub org: OrgId,
    tenancy: Tenancy,
    _shutdown: DropGuard,
    // Dropped last: no connection may be open by then.
    _database: TestDatabase,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let (database, pool) = setup::database().await;
        let kafka = setup::topics(PARTITIONS).await;
        let shutdown = CancellationToken::new();
        let tenancy = start_tenancy(pool.clone(), TenancyConfig::new(None, false), &shutdown);
        let org = tenancy.apply_dev_keys(KEY, true).await.unwrap().unwrap();
        Self { pool, kafka, org, tenancy, _shutdown: shutdown.drop_guard(), _database: database }
    }

    /// An instance on the bench's log and database.
    pub(crate) async fn instance(&self) -> Instance {
        self.instance_with(setup::producer(&self.kafka), self.pool.clone()).await
    }

    /// An instance that appends with `producer` and looks dedup keys up in `pool`. API keys are always read from the
    /// bench's database.
    pub(crate) async fn instance_with(&self, producer: Producer, pool: PgPool) -> Instance {
        let (sealing, written) = (SealingKey::from_bytes(SEALING), RecentWrites::default());
        let shutdown = CancellationToken::new();
        let mut supervisor = Supervisor::new(Health::new(), shutdown.clone());
        let state = IngestState::start(
            &mut supervisor,
            self.tenancy.authenticator(),
            producer,
            &self.kafka.topics.events,
            sealing.clone(),
            written.clone(),
            pool,
        );
        drop(tokio::spawn(supervisor.run(DEADLINE)));
        let url = serve(ingest::routes(state).merge(tenancy::routes(self.tenancy.clone())), &shutdown).await;
        Instance { url, client: client(), sealing, written, _shutdown: shutdown.drop_guard() }
    }

    /// All records on the log of events up to now.
    pub(crate) async fn log(&self) -> Vec<OnLog> {
        read_topic(&self.kafka.brokers, &self.kafka.topics.events).await.iter().map(OnLog::of).collect()
    }
}

/// An event as it is on the log.
#[derive(Debug)]
pub(crate) struct OnLog {
    pub partition: i32,
    pub offset: i64,
    pub append_time_ms: i64,
    pub key: String,
    pub headers: HashMap<String, String>,
    pub event: Event,
}

impl OnLog {
    fn of(record: &OwnedMessage) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let Timestamp::LogAppendTime(append_time_ms) = record.timestamp() else { panic!("{:?}", record.timestamp()) };
        Self {
            partition: record.partition(),
            offset: record.offset(),
            append_time_ms,
            key: text(record.key().unwrap()),
            headers: record
                .headers()
                .unwrap()
                .iter()
                .map(|header| (header.key.to_owned(), text(header.value.unwrap())))
                .collect(),
            event: schemas::codec::decode_event(record.payload().unwrap()).unwrap(),
        }
    }
}

/// One instance of ingest.
pub(crate) struct Instance {
    url: String,
    client: Client,
    pub sealing: SealingKey,
    pub written: RecentWrites,
    _shutdown: DropGuard,
}

impl Instance {
    /// A request to post, without a key.
    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    /// Where it listens, `HOST:PORT`.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// A request to accept a batch of this content type.
    pub(crate) fn batch(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.batch_as(KEY, path, content_type, body)
    }

    /// The same with another key. It uses a connection of its own: the server closes that of a body that it refuses to
    /// read, and the client must not reuse it.
    pub(crate) fn batch_as(
        &self,
        key: &str,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> RequestBuilder {
        let request = self.post(path).bearer_auth(key).header("connection", "close");
        request.header("content-type", content_type).body(body)
    }

    /// A request to accept a body of JSON text.
    pub(crate) fn event(&self, body: impl Into<String>) -> RequestBuilder {
        self.post("/v1/events").bearer_auth(KEY).header("content-type", "application/json").body(body.into())
    }

    pub(crate) async fn accept(&self, body: &Value) -> Answer {
        send(self.event(body.to_string())).await
    }

    /// Accepts an event under an `Idempotency-Key`.
    pub(crate) async fn accept_as(&self, key: &str, body: &Value) -> Answer {
        send(self.event(body.to_string()).header("idempotency-key", key)).await
    }

    /// Creates an API key of the bench's organization.
    pub(crate) async fn key(&self, mut wanted: Value) -> String {
        wanted["name"] = json!("a key");
        wanted["environment"] = json!("test");
        send(self.post("/v1/keys").bearer_auth(KEY).json(&wanted)).await.expect(201).text("key")
    }
}
