//! Positions outside of their log, and undecodable batches: the partition stops, the others are read on, and `triggers
//! positions` repairs or skips, all on running roles.

use std::time::Duration;

use devstack::Signal;
use devstack::testing::eventually;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use sqlx::PgPool;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::api::{Api, http, ids};
use crate::deliveries::RECEIVED_WITHIN;
use crate::process::Process;
use crate::system::System;

const PATIENCE: Duration = Duration::from_secs(60);

fn admin(system: &System) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &system.brokers).create().unwrap()
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

/// Deletes the events topic and creates it again, empty.
async fn recreate(system: &System) {
    let (admin, topic) = (admin(system), system.topic(schemas::topics::EVENTS));
    for deleted in admin.delete_topics(&[&topic], &options()).await.unwrap() {
        deleted.unwrap();
    }
    // The controller has deleted it; `topics apply` asks the broker, which may still show it for a moment.
    let unknown = Some(RDKafkaErrorCode::UnknownTopicOrPartition);
    eventually(PATIENCE, "the broker does not show the topic", || async {
        let metadata = admin.inner().fetch_metadata(Some(&topic), Duration::from_secs(10)).ok()?;
        (metadata.topics()[0].error().map(RDKafkaErrorCode::from) == unknown).then_some(())
    })
    .await;
    eventually(PATIENCE, "the topic is created again", || async {
        (system.run(&["topics", "apply"]).await.code == 0).then_some(())
    })
    .await;
}

async fn positions(system: &System) -> Vec<Value> {
    system.run(&["positions", "list"]).await.expect(0).json()
}

/// States of the events topic's positions that are not "ok": (consumer, partition, state).
async fn outside(system: &System) -> Vec<(String, i64, String)> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    let bad = positions(system).await.into_iter().filter(|line| line["state"] != "ok");
    bad.map(|line| (text(&line, "consumer"), line["partition"].as_i64().unwrap(), text(&line, "state"))).collect()
}

async fn ready(base_url: &str, expected: bool) {
    let url = format!("{base_url}/health/ready");
    eventually(PATIENCE, &format!("readiness is {expected}"), || async {
        (http().get(&url).send().await.ok()?.status().is_success() == expected).then_some(())
    })
    .await;
}

/// The partition of an organization with at least one event in the view.
async fn partition_of(database: &PgPool, api: &Api) -> i32 {
    let sql = "SELECT log_partition FROM contract.events WHERE org_id::text = $1 LIMIT 1";
    sqlx::query_scalar(sql).bind(&api.org_id).fetch_one(database).await.unwrap()
}

/// Posts `count` events, one after the other; returns their ids.
async fn post(api: &Api, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(api.accept("n", &json!(n)).await);
    }
    ids
}

async fn all_shown(api: &Api, expected: &[String]) {
    eventually(PATIENCE, "the inbox has exactly the expected events, in order", || async {
        (ids(&api.inbox(1000).await) == expected).then_some(())
    })
    .await;
}

/// An ascending page after a cursor: ids, and the resume cursor.
async fn page(api: &Api, cursor: Option<&str>, limit: u32) -> (Vec<String>, String) {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let page = api.get(&format!("/v1/inbox?limit={limit}&order=asc{cursor}")).await.expect(200).json();
    (ids(page["events"].as_array().unwrap()), page["resume_cursor"].as_str().unwrap().to_owned())
}

/// All roles, two organizations in different partitions, and an endpoint of the first.
struct Installed {
    system: System,
    database: PgPool,
    _ingest: Process,
    consumers: Vec<Process>,
    /// Settings of the consumers besides [`QUICK`].
    settings: Vec<(&'static str, &'static str)>,
    urls: Vec<String>,
    api: Api,
    other: Api,
    receiver: Receiver,
}

const QUICK: [(&str, &str); 3] = [
    ("CONSUMER_SESSION_TIMEOUT_MS", "3000"),
    ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"),
    ("WEBHOOK_ALLOW_HTTP", "true"),
];

impl Installed {
    async fn new() -> Self {
        let system = System::shared().await;
        let database = system.database().await;
        let ingest = system.role("ingest", &QUICK);
        let base_url = ingest.ready().await;
        let api = Api::of_new_organization(&base_url, &system.operator_token, "One").await;
        let receiver = Receiver::start(ReceiverBehavior::Status(204)).await.with_patience(RECEIVED_WITHIN);
        api.post("/v1/endpoints", &json!({"url": receiver.url()})).await.expect(201);
        let mut installed = Self {
            other: api.clone(),
            system,
            database,
            _ingest: ingest,
            consumers: Vec::new(),
            settings: Vec::new(),
            urls: Vec::new(),
            api,
            receiver,
        };
        installed.start_consumers().await;
        for url in &installed.urls {
            ready(url, true).await;
        }
        let first = post(&installed.api, 1).await;
        all_shown(&installed.api, &first).await;
        let taken = partition_of(&installed.database, &installed.api).await;
        loop {
            let other = Api::of_new_organization(&base_url, &installed.system.operator_token, "Other").await;
            let id = post(&other, 1).await;
            all_shown(&other, &id).await;
            if partition_of(&installed.database, &other).await != taken {
                installed.other = other;
                return installed;
            }
        }
    }

    /// Starts them without waiting for readiness: a stopped partition keeps it at 503.
    async fn start_consumers(&mut self) {
        let settings = [&QUICK[..], &self.settings].concat();
        self.consumers = ["materializer", "dispatcher"].map(|role| self.system.role(role, &settings)).into();
        self.urls.clear();
        for consumer in &self.consumers {
            self.urls.push(format!("http://127.0.0.1:{}", consumer.port().await));
        }
    }

    async fn stop_consumers(&mut self) {
        for consumer in &mut self.consumers {
            consumer.signal(Signal::TERM);
            assert_eq!(consumer.ended().await.code(), Some(0), "{}", consumer.log());
        }
    }

    async fn are_ready(&self, expected: bool) {
        for url in &self.urls {
            ready(url, expected).await;
        }
    }

    async fn repair(&self, args: &[&str], code: i32) -> String {
        let finished = self.system.run(&[&["positions", "repair"], args].concat()).await.expect(code);
        finished.output + &finished.log
    }

    async fn log_epochs(&self, partition: i32) -> Vec<(String, i32)> {
        let sql = "SELECT consumer, log_epoch FROM consumer_positions
                   WHERE topic LIKE '%events%' AND partition = $1 ORDER BY 1";
        sqlx::query_as(sql).bind(partition).fetch_all(&self.database).await.unwrap()
    }
}

fn both(log_epoch: i32) -> Vec<(String, i32)> {
    vec![("dispatcher".to_owned(), log_epoch), ("materializer".to_owned(), log_epoch)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_log_stops_its_partition_until_it_is_repaired() {
    let mut installed = Installed::new().await;
    let before: Vec<String> = [ids(&installed.api.inbox(1000).await), post(&installed.api, 9).await].concat();
    all_shown(&installed.api, &before).await;
    installed.receiver.wait_for_ids(&before).await;
    let (_, cursor) = page(&installed.api, None, 4).await;
    let partition = partition_of(&installed.database, &installed.api).await;
    installed.stop_consumers().await;

    post(&installed.api, 5).await;
    let left = post(&installed.api, 5).await;
    let mut deleted = TopicPartitionList::new();
    let end = positions(&installed.system).await.iter().find(|line| line["partition"] == partition).unwrap()["log_end"]
        .as_i64()
        .unwrap();
    let topic = installed.system.topic(schemas::topics::EVENTS);
    deleted.add_partition_offset(&topic, partition, Offset::Offset(end - 5)).unwrap();
    admin(&installed.system).delete_records(&deleted, &options()).await.unwrap();
    installed.start_consumers().await;
    installed.are_ready(false).await;

    // The other partition is read on, and nothing is skipped in this one.
    let others = [ids(&installed.other.inbox(10).await), post(&installed.other, 3).await].concat();
    all_shown(&installed.other, &others).await;
    assert_eq!(ids(&installed.api.inbox(1000).await), before);
    for consumer in &installed.consumers {
        eventually(PATIENCE, "the reason is in the log", || async {
            consumer
                .log()
                .contains(&format!("the position is {}, the log reaches from {} to {end}", end - 10, end - 5))
                .then_some(())
        })
        .await;
    }
    let state = |consumer: &str| (consumer.to_owned(), i64::from(partition), "truncated".to_owned());
    assert_eq!(outside(&installed.system).await, [state("dispatcher"), state("materializer")]);
    let printed = installed.repair(&["--all-outside"], 1).await;
    assert!(printed.contains("5 records were deleted") && printed.contains("--yes"), "{printed}");
    assert_eq!(outside(&installed.system).await.len(), 2, "nothing was changed");
    let named = ["--consumer", "materializer", "--topic", topic.as_str(), "--partition"];
    let number = partition.to_string();
    installed.repair(&[&named[..], &[number.as_str(), "--yes"]].concat(), 0).await;
    assert_eq!(outside(&installed.system).await, [state("dispatcher")]);
    all_shown(&installed.api, &[before.clone(), left.clone()].concat()).await;
    assert!(
        left.iter().all(|id| !installed.receiver.counts().contains_key(id)),
        "the position of the other consumer is not repaired"
    );
    installed.repair(&["--all-outside", "--yes"], 0).await;
    installed.receiver.wait_for_ids(&left).await;
    installed.are_ready(true).await;
    assert_eq!(installed.log_epochs(partition).await, both(1));

    // An old cursor continues across the gap; new events are read at once; an event with a key gets its decision.
    let (rest, cursor) = page(&installed.api, Some(&cursor), 1000).await;
    assert_eq!(rest, [before[4..].to_vec(), left].concat());
    let keyed = installed.api.post_event_as("key", &json!({"event_type": "n", "payload": 1})).await.expect(201).json();
    let keyed = keyed["event_id"].as_str().unwrap().to_owned();
    assert_eq!(page(&installed.api, Some(&cursor), 1000).await.0, [keyed.as_str()], "read what you wrote");
    installed.receiver.wait_for_ids(&[keyed]).await;
    assert!(installed.receiver.counts().values().all(|count| *count == 1), "{:?}", installed.receiver.counts());
    assert_eq!(outside(&installed.system).await, []);
    let printed = installed.repair(&["--all-outside", "--yes"], 0).await;
    assert!(printed.contains("nothing to repair"), "{printed}");
    // No Kafka answers there.
    let printed = installed.repair(&["--all-outside", "--yes", "--kafka-brokers", "127.0.0.1:1"], 1).await;
    assert!(printed.contains("could not be checked") && !printed.contains("nothing to repair"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_topic_is_repaired_under_running_roles() {
    let installed = Installed::new().await;
    let before: Vec<String> = [ids(&installed.api.inbox(1000).await), post(&installed.api, 9).await].concat();
    all_shown(&installed.api, &before).await;
    installed.receiver.wait_for_ids(&before).await;
    let (first, cursor) = page(&installed.api, None, 4).await;
    let partition = partition_of(&installed.database, &installed.api).await;
    recreate(&installed.system).await;
    // Accepted into the new log, whose offsets start at 0 again.
    let accepted = eventually(PATIENCE, "ingest writes to the new topic", || async {
        let reply = installed.api.post("/v1/events", &json!({"event_type": "n", "payload": 0})).await;
        (reply.status == 201).then(|| reply.json()["event_id"].as_str().unwrap().to_owned())
    })
    .await;
    installed.are_ready(false).await;
    assert!(!outside(&installed.system).await.is_empty());
    installed.repair(&["--all-outside", "--yes"], 0).await;
    let after = [vec![accepted], post(&installed.api, 2).await].concat();
    all_shown(&installed.api, &[before.clone(), after.clone()].concat()).await;
    installed.receiver.wait_for_ids(&after).await;
    installed.are_ready(true).await;
    assert_eq!(installed.log_epochs(partition).await, both(2));
    let (rest, _) = page(&installed.api, Some(&cursor), 1000).await;
    let all = [before.clone(), after].concat();
    assert_eq!([first, rest].concat(), all, "an old cursor repeats nothing and skips nothing");
    installed.api.post(&format!("/v1/inbox/ack/{}", before[0]), &json!({})).await.expect(200);
    assert_eq!(ids(&installed.api.inbox(5).await), all[1..], "events of the old log can be acknowledged");
    assert!(installed.receiver.counts().values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_again_stops_although_it_outgrew_positions() {
    let mut installed = Installed::new().await;
    let before = ids(&installed.api.inbox(10).await);
    installed.receiver.wait_for_ids(&before).await;
    installed.stop_consumers().await;
    recreate(&installed.system).await;
    let first = eventually(PATIENCE, "ingest writes to the new topic", || async {
        let reply = installed.api.post("/v1/events", &json!({"event_type": "n", "payload": 0})).await;
        (reply.status == 201).then(|| reply.json()["event_id"].as_str().unwrap().to_owned())
    })
    .await;
    let after = [vec![first], post(&installed.api, 9).await].concat();
    installed.start_consumers().await;
    installed.are_ready(false).await;
    let partition = i64::from(partition_of(&installed.database, &installed.api).await);
    let found = outside(&installed.system).await;
    let state = |consumer: &str| (consumer.to_owned(), partition, "recreated".to_owned());
    assert!(found.contains(&state("materializer")) && found.contains(&state("dispatcher")), "{found:?}");
    assert_eq!(ids(&installed.api.inbox(1000).await), before, "no consumer reads from the middle of another log");
    for words in [["rebuild", "--accept-differences"].as_slice(), &["replay", "--from", "2026-01-01T00:00:00Z"]] {
        let refused = installed.system.run(&[&["view"], words].concat()).await.expect(1);
        assert!(refused.log.contains("is outside of its log"), "{}", refused.log);
    }
    assert_eq!(ids(&installed.api.inbox(1000).await), before, "no command reads from it either");
    let failed = installed.system.run(&["doctor"]).await.expect(1);
    assert!(failed.output.contains(&format!(
        "FAIL  positions: materializer in {}[{partition}]",
        installed.system.topic(schemas::topics::EVENTS)
    )));
    installed.repair(&["--all-outside", "--yes"], 0).await;
    all_shown(&installed.api, &[before, after.clone()].concat()).await;
    installed.receiver.wait_for_ids(&after).await;
    assert!(installed.receiver.counts().values().all(|count| *count == 1));
    installed.system.run(&["doctor"]).await.expect(0);
}

/// Writes one batch of valid events that is larger than consumers with [`SMALL_RECEIVE_LIMIT`] can decode; returns its
/// last offset.
async fn append_large_batch(installed: &Installed, partition: i32) -> i64 {
    let native: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &installed.system.brokers)
        .set("compression.type", "zstd")
        .set("message.max.bytes", "10000000")
        .set("batch.size", "10000000")
        .set("linger.ms", "1000")
        .create()
        .unwrap();
    let topic = installed.system.topic(schemas::topics::EVENTS);
    let value = format!(r#"{{"type": "n", "data": "{}"}}"#, "x".repeat(200_000));
    let org = &installed.api.org_id;
    let record = || native.send(FutureRecord::to(&topic).partition(partition).key(org).payload(&value), PATIENCE);
    let appended = futures_util::future::try_join_all((0..6).map(|_| record())).await.unwrap();
    appended.iter().map(|appended| appended.offset).max().unwrap()
}

const SMALL_RECEIVE_LIMIT: [(&str, &str); 2] = [
    ("KAFKA_PROPERTIES", "fetch.max.bytes=1000000;receive.message.max.bytes=1001000"),
    ("CONSUMER_STALL_AFTER_MS", "5000"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecodable_batch_is_skipped_on_running_roles() {
    let mut installed = Installed::new().await;
    let before = ids(&installed.api.inbox(1000).await);
    installed.receiver.wait_for_ids(&before).await;
    let partition = partition_of(&installed.database, &installed.api).await;
    installed.stop_consumers().await;
    let last = append_large_batch(&installed, partition).await;
    let behind = post(&installed.api, 2).await;
    installed.settings = SMALL_RECEIVE_LIMIT.to_vec();
    installed.start_consumers().await;
    installed.are_ready(true).await;
    installed.are_ready(false).await;
    let others = [ids(&installed.other.inbox(10).await), post(&installed.other, 3).await].concat();
    all_shown(&installed.other, &others).await;

    let topic = installed.system.topic(schemas::topics::EVENTS);
    let (number, to, inside) = (partition.to_string(), (last + 1).to_string(), last.to_string());
    let command = format!("triggers positions skip --topic {topic} --partition {number} --to OFFSET");
    for consumer in &installed.consumers {
        assert!(consumer.log().contains(&command), "{}", consumer.log());
    }
    let skip = ["positions", "skip", "--topic", &topic, "--partition", &number, "--to"];
    let printed = installed.system.run(&[&skip[..], &[&to]].concat()).await.expect(1);
    let gives_up = format!("from {} to {to}; 6 offsets are skipped", last - 5);
    for consumer in ["dispatcher", "materializer"] {
        let line = format!("{consumer} at {topic}[{number}]: {gives_up}");
        assert!(printed.output.contains(&line), "{}", printed.output);
    }
    assert!(printed.log.contains("--yes") && !printed.log.contains("cannot be decoded"), "{}", printed.log);
    let bounded = [&skip[..], &[&inside, "--kafka", "receive.message.max.bytes=1001000"]].concat();
    let bounded = [&bounded[..], &["--kafka", "fetch.max.bytes=1000000"]].concat();
    let warned = installed.system.run(&bounded).await.expect(1);
    assert!(warned.log.contains("cannot be decoded either"), "an offset inside of the batch: {}", warned.log);
    let refused = installed.system.run(&[&skip[..], &["1000000", "--yes"]].concat()).await.expect(1);
    assert!(refused.log.contains("is not between its position"), "{}", refused.log);
    assert_eq!(ids(&installed.api.inbox(1000).await), before, "nothing was changed");

    installed.system.run(&[&skip[..], &[&to, "--yes"]].concat()).await.expect(0);
    let all = [before, behind.clone()].concat();
    all_shown(&installed.api, &all).await;
    installed.receiver.wait_for_ids(&behind).await;
    installed.are_ready(true).await;
    // Replay and rebuild skip the batch too, although they could decode it.
    installed.system.run(&["view", "replay", "--from", "2026-01-01T00:00:00Z"]).await.expect(0);
    installed.system.run(&["view", "rebuild"]).await.expect(0);
    all_shown(&installed.api, &all).await;
}
