//! Ten thousand events are each one row, in log order, while materializers join, leave and die.

use std::collections::BTreeSet;
use std::time::Duration;

use devstack::Signal;
use devstack::testing::{eventually, read_topic};
use rdkafka::message::{Message as _, OwnedMessage};
use serde_json::json;
use sqlx::PgPool;
use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;

use crate::api::{Api, ids};
use crate::process::Process;
use crate::system::System;

/// Number of steps; a materializer joins, leaves or dies in each.
const STEPS: u64 = 5;
const STEP: u64 = 1400;
/// Number of events that each of three other organizations sends from a file.
const FILE: u64 = 1000;
const TOTAL: u64 = STEPS * STEP + 3 * FILE;
const PATIENCE: Duration = Duration::from_secs(60);

fn lines(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{}\n", json!({"event_type": "n", "payload": n}))).collect()
}

/// Writes the lines of one step to the sender.
async fn feed(sender: &mut ChildStdin, step: u64) {
    sender.write_all(lines(step * STEP..(step + 1) * STEP).as_bytes()).await.unwrap();
}

/// Starts a materializer and waits until it has claimed partitions.
async fn join(system: &System, database: &PgPool) -> Process {
    let before = claims(database).await;
    let materializer = system.role("materializer", &[]);
    materializer.ready().await;
    eventually(PATIENCE, "partitions are claimed", || async { (claims(database).await > before).then_some(()) }).await;
    materializer
}

/// Number of claims of all partitions by all instances.
async fn claims(database: &PgPool) -> i64 {
    let claims = "SELECT coalesce(sum(epoch), 0)::bigint FROM consumer_positions WHERE consumer = 'materializer'";
    sqlx::query_scalar(claims).fetch_one(database).await.unwrap()
}

async fn rows(database: &PgPool) -> u64 {
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM contract.events").fetch_one(database).await.unwrap();
    u64::try_from(rows).unwrap()
}

async fn sent(mut sender: Process, count: u64) {
    assert_eq!(sender.ended().await.code(), Some(0), "{}", sender.log());
    assert_eq!(sender.output().trim(), format!("{count} accepted, 0 duplicates, 0 refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn materializers_that_join_and_leave_keep_each_event_once() {
    let system = System::shared().await;
    let ingest = system.role("ingest", &[]);
    let base_url = ingest.ready().await;
    let database = system.database().await;
    let mut apis = Vec::new();
    for name in ["Many", "One", "Two", "Three"] {
        apis.push(Api::of_new_organization(&base_url, &system.operator_token, name).await);
    }
    let file = system.folder().join("events.ndjson");
    std::fs::write(&file, lines(0..FILE)).unwrap();
    let from_file = |api: &Api| system.start_send(api, file.to_str().unwrap(), 4);
    let mut many = system.start_send(&apis[0], "-", 8);
    let mut pipe = many.stdin();

    let (mut first, ()) = tokio::join!(join(&system, &database), feed(&mut pipe, 0));
    let one = from_file(&apis[1]);
    let (second, ()) = tokio::join!(join(&system, &database), feed(&mut pipe, 1));
    let two = from_file(&apis[2]);
    first.signal(Signal::TERM);
    let (status, ()) = tokio::join!(first.ended(), feed(&mut pipe, 2));
    assert_eq!(status.code(), Some(0), "{}", first.log());
    let three = from_file(&apis[3]);
    let (first, ()) = tokio::join!(join(&system, &database), feed(&mut pipe, 3));
    second.signal(Signal::KILL);
    drop(second);
    let (second, ()) = tokio::join!(join(&system, &database), feed(&mut pipe, 4));
    drop(pipe);
    tokio::join!(sent(many, STEPS * STEP), sent(one, FILE), sent(two, FILE), sent(three, FILE));

    // Partitions of the killed member are assigned again only after its session timeout.
    eventually(PATIENCE, "there are as many rows as events", || async {
        (rows(&database).await >= TOTAL).then_some(())
    })
    .await;
    let log = log(&system).await;
    for (api, count) in apis.iter().zip([STEPS * STEP, FILE, FILE, FILE]) {
        assert_pages_match_the_log(&log, api, count).await;
    }
    assert_eq!(rows(&database).await, TOTAL, "no event has two rows");
    drop((first, second));
}

/// The inbox, read in pages, has every event once, in the order of the log.
async fn assert_pages_match_the_log(log: &[(String, String)], api: &Api, count: u64) {
    let inbox = api.inbox(1000).await;
    let mut payloads: Vec<u64> = inbox.iter().map(|event| event["payload"].as_u64().unwrap()).collect();
    payloads.sort_unstable();
    assert!(
        payloads == (0..count).collect::<Vec<_>>(),
        "{} instead of {count} events, or not each once",
        payloads.len()
    );
    let shown = ids(&inbox);
    let shown_ids: BTreeSet<&String> = shown.iter().collect();
    // A repeated request may be on the log twice; only the record that owns the row is compared.
    let logged: Vec<&String> =
        log.iter().filter(|(org_id, id)| *org_id == api.org_id && shown_ids.contains(id)).map(|(_, id)| id).collect();
    assert!(logged.into_iter().eq(&shown), "not in the order of the log");
}

/// Organization and id of every event on the log; those of one organization in their order.
async fn log(system: &System) -> Vec<(String, String)> {
    let records = read_topic(&system.brokers, &system.topic(schemas::topics::EVENTS)).await;
    let event = |record: &OwnedMessage| schemas::codec::decode_event(record.payload().unwrap()).unwrap();
    records.iter().map(event).map(|event| (event.org_id.to_string(), event.event_id.to_string())).collect()
}
