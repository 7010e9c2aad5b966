//! The bench: topics and a database of one test, instances of ingest on ports of their own, and reading the log back.

use std::collections::HashMap;
use std::time::Duration;

use devstack::testing::{TestDatabase, read_topic};
use http::{HeaderMap, StatusCode};
use ingest::IngestState;
use platform::health::Health;
use platform::http::{MountOptions, ServerLimits};
use platform::kafka::KafkaConfig;
use platform::kafka::producer::{Producer, ProducerSettings};
use platform::kafka::topics::{self, Replication};
use platform::lifecycle::Supervisor;
use platform::postgres::{self, PostgresConfig};
use platform::read_your_writes::RecentWrites;
use platform::seal::SealingKey;
use rdkafka::message::{Headers as _, OwnedMessage};
use rdkafka::{Message as _, Timestamp};
use reqwest::{Client, RequestBuilder};
use schemas::ids::OrgId;
use schemas::records::Event;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tenancy::{Tenancy, TenancyConfig};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const PARTITIONS: i32 = 3;
/// A key of the bench's organization that may do everything.
pub(crate) const KEY: &str = "the-key-of-these-tests";
/// How long the tasks of an instance may take to end.
const DEADLINE: Duration = Duration::from_secs(10);
const SEALING: [u8; 32] = [7; 32];

pub(crate) struct Bench {
    pub pool: PgPool,
    pub kafka: KafkaConfig,
    pub org: OrgId,
    tenancy: Tenancy,
    _shutdown: DropGuard,
    // Dropped last: nobody may be connected any more.
    _database: TestDatabase,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        // Fails when another test was first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let shared = devstack::testing::shared().await;
        let database = shared.database().await;
        let pool = postgres::connect(&PostgresConfig::new(&database.url)).unwrap();
        postgres::migrate(&pool).await.unwrap();
        let kafka = KafkaConfig::new(shared.brokers(), &shared.topic_prefix());
        let replication = Replication { factor: 1, min_in_sync: 1 };
        let manifest: Vec<_> =
            kafka.topics.manifest(PARTITIONS).into_iter().filter(|topic| topic.name == kafka.topics.events).collect();
        let differences = topics::plan(&kafka, &manifest, replication).await.unwrap();
        topics::apply(&kafka, &differences, replication).await.unwrap();
        let shutdown = CancellationToken::new();
        let mut supervisor = Supervisor::new(Health::new(), shutdown.clone());
        let tenancy = Tenancy::start(&mut supervisor, pool.clone(), TenancyConfig::new(None, false));
        tokio::spawn(supervisor.run(DEADLINE));
        let org = tenancy.apply_dev_keys(KEY, true).await.unwrap().unwrap();
        Self { pool, kafka, org, tenancy, _shutdown: shutdown.drop_guard(), _database: database }
    }

    /// An instance on the bench's log and database.
    pub(crate) async fn instance(&self) -> Instance {
        self.instance_with(Producer::new(&self.kafka, ProducerSettings::default()).unwrap(), self.pool.clone()).await
    }

    /// An instance that appends with `producer` and looks repeats up in `pool`. Keys are always read from the bench's
    /// database.
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
        let router = platform::http::mount(
            ingest::routes(state).merge(tenancy::routes(self.tenancy.clone())),
            MountOptions::default(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(supervisor.run(DEADLINE));
        tokio::spawn(platform::http::serve(listener, router, ServerLimits::default(), shutdown.clone()));
        Instance { url, client: Client::new(), sealing, written, _shutdown: shutdown.drop_guard() }
    }

    /// All records on the log of events up to now.
    pub(crate) async fn log(&self) -> Vec<OnLog> {
        read_topic(&self.kafka.brokers, &self.kafka.topics.events).await.iter().map(OnLog::of).collect()
    }
}

/// An event as it stands on the log.
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

#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub(crate) fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_else(|| panic!("no text {field} in {}", self.body))
    }

    /// Fails the test with the whole answer unless it has this status.
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Instance {
    /// A request to post, without a key.
    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
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

    /// Makes a key of the bench's organization.
    pub(crate) async fn key(&self, mut wanted: Value) -> String {
        wanted["name"] = json!("a key");
        wanted["environment"] = json!("test");
        send(self.post("/v1/keys").bearer_auth(KEY).json(&wanted)).await.expect(201).text("key").to_owned()
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{status}: {error}: {bytes:?}"));
    Answer { status, headers, body }
}
