//! `triggers up`: it serves everything on one machine, refuses to start twice, stops cleanly, and recovers after a
//! kill.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use devstack::Signal;
use devstack::testing::processes::gone;
use devstack::testing::{self, eventually, read_topic};
use devstack::{Options, Stack};
use futures_util::{StreamExt as _, stream};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::api::{self, Api, ids};
use crate::process::{Process, triggers};
use crate::system::{Finished, finish};

/// A parent folder of data folders. If the test runs as root, the servers run as another user and must be able to enter
/// it.
pub(crate) struct ParentFolder(TempDir);

impl ParentFolder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        Self(folder)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// `triggers up` on a free port, ready.
    pub(crate) async fn up(&self) -> (Process, Value) {
        let mut command = triggers(self.0.path());
        command.args(["up", "--port", "0", "--data-dir"]).arg(self.data());
        let up = Process::start(command, self.0.path(), "up");
        up.printed("Triggers is up").await;
        let text = std::fs::read_to_string(self.data().join("dev.json")).unwrap();
        (up, serde_json::from_str(&text).unwrap())
    }

    /// `triggers up` that is expected to be refused.
    async fn refused(&self, port: u16, data: &Path) -> String {
        let (port, data) = (port.to_string(), data.to_str().unwrap());
        let finished = finish(triggers(self.0.path()), &["up", "--port", &port, "--data-dir", data]).await.expect(1);
        error_message(&finished)
    }
}

/// The error message: the only line of standard error that is not a log line.
fn error_message(finished: &Finished) -> String {
    let lines: Vec<&str> = finished.log.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(lines.len(), 1, "{}", finished.log);
    lines[0].strip_prefix("triggers: ").unwrap().to_owned()
}

async fn client(dev: &Value) -> Api {
    Api::new(dev["base_url"].as_str().unwrap(), dev["api_key"].as_str().unwrap()).await
}

/// The processes of Java and PostgreSQL that `up` started.
fn servers(up: &Process) -> Vec<(u32, String)> {
    let family = up.family();
    let named = |name: &str| family.iter().filter(|(_, comm)| comm == name).count();
    assert!(named("java") == 1 && named("postgres") > 3, "{family:?}");
    family
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_serves_inbox_and_webhooks_and_stops_cleanly() {
    let parent = ParentFolder::new();
    let (mut up, dev) = parent.up().await;
    let api = client(&dev).await;
    assert_eq!(dev["organization_id"], api.org_id);
    assert_dev_json_is_correct(&parent, &dev).await;
    assert_event_reaches_inbox_and_webhook(&api).await;

    let port = dev["base_url"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
    let refusal = parent.refused(0, &parent.data()).await;
    assert!(refusal.contains("in use by process"), "{refusal}");
    let other = parent.0.path().join("other");
    let refusal = parent.refused(port, &other).await;
    assert!(refusal.contains(&format!("port {port}")) && refusal.contains("in use"), "{refusal}");
    assert!(!other.exists(), "a refused start creates no files");
    api.accept("still.there", &json!({})).await;

    let family = servers(&up);
    up.signal(Signal::INT);
    assert_eq!(up.ended().await.code(), Some(0), "{}", up.log());
    gone(&family).await;
    assert!(!parent.data().join("dev.json").exists(), "dev.json is deleted");
}

async fn assert_dev_json_is_correct(parent: &ParentFolder, dev: &Value) {
    let mode = std::fs::metadata(parent.data().join("dev.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for metrics in dev["metrics_urls"].as_array().unwrap() {
        let text = api::http().get(metrics.as_str().unwrap()).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("triggers_"), "{text}");
    }
    let operator = api::http().get(format!("{}/v1/organizations", dev["base_url"].as_str().unwrap()));
    let answer = operator.bearer_auth(dev["operator_token"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    read_topic(dev["kafka_brokers"].as_str().unwrap(), "triggers.events.v1").await;
    let url = dev["database_url"].as_str().unwrap();
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(url).await.unwrap();
    let organizations: i64 =
        sqlx::query_scalar("SELECT count(*) FROM contract.organizations").fetch_one(&mut connection).await.unwrap();
    assert_eq!(organizations, 1);
}

async fn assert_event_reaches_inbox_and_webhook(api: &Api) {
    let receiver = Receiver::start(ReceiverBehavior::Status(204)).await.with_patience(Duration::from_secs(10));
    let wanted = json!({"url": receiver.url(), "event_types": ["order.*"]});
    let endpoint = api.post("/v1/endpoints", &wanted).await.expect(201).json();
    let id = api.accept("order.created", &json!({"id": 7, "total": "12.50"})).await;
    let accepted = Instant::now();
    let event = api.shown(&id, Duration::from_secs(10)).await;
    assert!(accepted.elapsed() < Duration::from_secs(1), "in the inbox after {:?}", accepted.elapsed());
    assert_eq!(event["payload"], json!({"id": 7, "total": "12.50"}));

    let received = receiver.wait_for(1).await.remove(0);
    let verifier = standardwebhooks::Webhook::new(endpoint["secret"].as_str().unwrap()).unwrap();
    verifier.verify(&received.body, &received.headers).unwrap();
    verifier.verify(b"{}", &received.headers).unwrap_err();
    assert_eq!(received.headers["webhook-id"], id.as_str());
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(
        (&body["event_id"], &body["type"], &body["data"]),
        (&json!(id), &json!("order.created"), &event["payload"])
    );
    eventually(Duration::from_secs(10), "the delivery is recorded", || async {
        let status = api.get(&format!("/v1/events/{id}/status")).await.expect(200).json();
        (status["status"] == "delivered").then_some(())
    })
    .await;

    api.post(&format!("/v1/events/{id}/ack"), &json!({})).await.expect(200);
    assert!(api.inbox(50).await.is_empty(), "an acknowledged event is not in the inbox");
    let event = api.get(&format!("/v1/events/{id}")).await.expect(200).json();
    assert!(event["acknowledged_at"].is_string(), "{event}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_keeps_each_accepted_event_once_after_a_kill() {
    const EVENTS: usize = 1000;
    let parent = ParentFolder::new();
    let (mut up, dev) = parent.up().await;
    let api = client(&dev).await;
    let family = servers(&up);
    let posts = stream::iter(0..EVENTS).map(|n| {
        let api = api.clone();
        async move { api.accept("order.created", &json!({"n": n})).await }
    });
    let accepted: Vec<String> = posts.buffer_unordered(50).collect().await;
    up.signal(Signal::KILL);
    up.ended().await;
    let accepted: BTreeSet<String> = accepted.into_iter().collect();
    assert_eq!(accepted.len(), EVENTS);
    gone(&family).await;

    let (mut up, dev) = parent.up().await;
    let api = client(&dev).await;
    eventually(Duration::from_secs(30), "the inbox has as many events as were accepted", || async {
        let page = api.get("/v1/inbox?limit=1").await.expect(200).json();
        (page["pagination"]["total_undelivered"].as_u64()? >= EVENTS as u64).then_some(())
    })
    .await;
    let shown = ids(&api.inbox(300).await);
    assert_eq!(shown.len(), EVENTS, "each event once");
    assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), accepted);
    let family = servers(&up);
    up.signal(Signal::TERM);
    assert_eq!(up.ended().await.code(), Some(0), "{}", up.log());
    gone(&family).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_on_an_existing_kafka_only_creates_missing_topics() {
    let stack = Stack::start(Options { postgres: false, ..Options::test() }).await.unwrap();
    let database = testing::shared().await.database().await;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", stack.kafka_brokers()).create().unwrap();
    let short = NewTopic::new("triggers.events.v1", 2, TopicReplication::Fixed(1));
    let short = short.set("message.timestamp.type", "LogAppendTime").set("retention.ms", "3600000");
    admin.create_topics(&[short], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();

    let parent = ParentFolder::new();
    let mut command = triggers(parent.0.path());
    command.env("KAFKA_BROKERS", stack.kafka_brokers()).env("DATABASE_URL", &database.url);
    command.args(["up", "--port", "0", "--data-dir"]).arg(parent.data());
    let mut up = Process::start(command, parent.0.path(), "up");
    up.printed("Triggers is up").await;
    let log = up.log();
    for left in ["2 partitions, 12 wanted", "retention.ms is 3600000, must be at least 604800000"] {
        assert!(log.contains(&format!("triggers.events.v1: {left}")), "{left}: {log}");
    }
    assert!(log.contains("run: triggers topics apply"), "{log}");

    let events = ResourceSpecifier::Topic("triggers.events.v1");
    let described = admin.describe_configs([&events], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    assert_eq!(described.get("retention.ms").unwrap().value.as_deref(), Some("3600000"));
    let partitions = |topic: &str| {
        admin.inner().fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap().topics()[0].partitions().len()
    };
    assert_eq!((partitions("triggers.events.v1"), partitions("triggers.acks.v1")), (2, 12));
    up.signal(Signal::TERM);
    assert_eq!(up.ended().await.code(), Some(0), "{}", up.log());
    stack.stop().await;
}
