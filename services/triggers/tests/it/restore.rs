//! PostgreSQL is restored from an old backup: the positions are as old as the rows, so the roles read the rest from the
//! log again.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use devstack::testing::{self, eventually};
use devstack::{Options, Signal, Stack};
use serde_json::json;
use testkit::receiver::{Receiver, ReceiverBehavior};
use tokio::process::Command;

use crate::api::{Api, ids};
use crate::deliveries::RECEIVED_WITHIN;
use crate::system::System;

const PATIENCE: Duration = Duration::from_secs(60);
const ROLE: [(&str, &str); 3] = [
    ("CONSUMER_SESSION_TIMEOUT_MS", "3000"),
    ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"),
    ("WEBHOOK_ALLOW_HTTP", "true"),
];

/// Copies a folder with its owners and rights.
async fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().await.unwrap();
    assert!(copied.success());
}

/// Posts `count` events; every third has an idempotency key.
async fn post(api: &Api, phase: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        let event = json!({"event_type": phase, "payload": n});
        let reply = if n % 3 == 0 {
            api.post_event_as(&format!("{phase}-{n}"), &event).await
        } else {
            api.post("/v1/events", &event).await
        };
        ids.push(reply.expect(201).json()["event_id"].as_str().unwrap().to_owned());
    }
    ids
}

async fn acknowledge(api: &Api, ids: &[String]) {
    let reply = api.post("/v1/inbox/ack", &json!({"event_ids": ids})).await.expect(200).json();
    assert_eq!(reply["acknowledged"], ids.len(), "{reply}");
}

/// Waits until the inbox has exactly these open events, in this order.
async fn open(api: &Api, expected: &[String]) {
    eventually(PATIENCE, "the inbox has exactly the expected events, in order", || async {
        let reply = api.get("/v1/inbox?limit=1000&order=asc").await;
        (reply.status == 200 && ids(reply.json()["events"].as_array().unwrap()) == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_database_catches_up_with_the_log() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let system = System::on(testing::shared().await.brokers(), &stack.database_url()).await;
    let ingest = system.role("ingest", &ROLE);
    let base_url = ingest.ready().await;
    let api = Api::of_new_organization(&base_url, &system.operator_token, "Test").await;
    let receiver = Receiver::start(ReceiverBehavior::Status(204)).await.with_patience(RECEIVED_WITHIN);
    api.post("/v1/endpoints", &json!({"url": receiver.url()})).await.expect(201);
    let mut consumers = ["materializer", "dispatcher"].map(|role| system.role(role, &ROLE));
    for consumer in &consumers {
        consumer.ready().await;
    }
    let before = post(&api, "before", 30).await;
    open(&api, &before).await;
    receiver.wait_for_ids(&before).await;
    acknowledge(&api, &before[..10]).await;
    // The backup must contain the position after these deliveries, or they are sent again.
    let database = system.database().await;
    eventually(PATIENCE, "the position of the dispatcher is stored", || async {
        let sql = "SELECT sum(next_offset)::bigint FROM consumer_positions WHERE consumer = 'dispatcher'";
        let sum: Option<i64> = sqlx::query_scalar(sql).fetch_one(&database).await.unwrap();
        (sum >= Some(30)).then_some(())
    })
    .await;
    database.close().await;

    let (data, backup) = (stack.data_dir().join("postgres").join("data"), stack.data_dir().join("backup"));
    stack.postgres().unwrap().stop().await;
    copy(&data, &backup).await;
    stack.postgres().unwrap().start().await.unwrap();
    for consumer in &consumers {
        consumer.ready().await;
    }
    // Events and acknowledgements after the backup.
    let after = post(&api, "after", 30).await;
    open(&api, &[&before[10..], &after[..]].concat()).await;
    receiver.wait_for_ids(&after).await;
    acknowledge(&api, &[&before[10..15], &after[..10]].concat()).await;
    let left = [&before[15..], &after[10..]].concat();
    open(&api, &left).await;

    for consumer in &mut consumers {
        consumer.signal(Signal::TERM);
        assert_eq!(consumer.ended().await.code(), Some(0), "{}", consumer.log());
    }
    stack.postgres().unwrap().stop().await;
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data).await;
    stack.postgres().unwrap().start().await.unwrap();

    // This instance has the key in its dedup cache, and the event is on the log, so it replays the response. Another
    // instance knows nothing of it and accepts a duplicate.
    let keyed = json!({"event_type": "after", "payload": 0});
    let remembered = eventually(PATIENCE, "ingest answers", || async {
        let reply = api.post_event_as("after-0", &keyed).await;
        (reply.status == 201).then(|| reply.json()["event_id"].as_str().unwrap().to_owned())
    })
    .await;
    let second = system.role("ingest", &ROLE);
    let elsewhere = api.at(&second.ready().await);
    let duplicate =
        elsewhere.post_event_as("after-0", &keyed).await.expect(201).json()["event_id"].as_str().unwrap().to_owned();
    let late = post(&elsewhere, "late", 3).await;

    let consumers = ["materializer", "dispatcher"].map(|role| system.role(role, &ROLE));
    for consumer in &consumers {
        consumer.ready().await;
    }
    open(&api, &[left, late.clone()].concat()).await;
    let all = [before.clone(), after.clone(), late].concat();
    let everything = api.get("/v1/inbox?limit=1000&order=asc&include_acknowledged=true").await.expect(200).json();
    assert_eq!(ids(everything["events"].as_array().unwrap()), all, "each event once, in the order of the log");
    for id in [&remembered, &duplicate] {
        let event = api.get(&format!("/v1/events/{id}")).await.expect(200).json();
        assert_eq!(event["payload"], 0, "{event}");
        assert!(event["event_id"] == after[0].as_str() || event["duplicate_of"] == after[0].as_str(), "{event}");
    }
    receiver.wait_for_ids(&all).await;
    let counts = receiver.counts();
    assert_eq!(counts.keys().collect::<BTreeSet<_>>(), all.iter().collect(), "webhooks of these events only");
    assert!(before.iter().all(|id| counts[id] == 1), "deliveries before the backup are not repeated");
    assert!(counts.values().all(|count| *count <= 2), "{counts:?}");
    drop((ingest, second, consumers));
    stack.stop().await;
}
