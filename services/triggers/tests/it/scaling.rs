//! Materializers that join, leave and die while events arrive.

use std::time::{Duration, Instant};

use devstack::Signal;
use serde_json::json;
use sqlx::PgConnection;
use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;

use crate::api::{Api, ids};
use crate::process::Process;
use crate::system::System;

/// Written in this many steps, one for each thing that happens meanwhile.
const STEPS: u64 = 5;
const STEP: u64 = 1400;
/// Sent from a file by each of three other organizations, which live in other partitions.
const FILE: u64 = 1000;
const TOTAL: u64 = STEPS * STEP + 3 * FILE;
const PATIENCE: Duration = Duration::from_secs(60);

fn lines(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{}\n", json!({"event_type": "n", "payload": n}))).collect()
}

/// Lets the sender send the lines of one step.
async fn feed(sender: &mut ChildStdin, step: u64) {
    sender.write_all(lines(step * STEP..(step + 1) * STEP).as_bytes()).await.unwrap();
}

async fn ready(materializer: Process) -> Process {
    materializer.ready().await;
    materializer
}

async fn rows(connection: &mut PgConnection) -> u64 {
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM contract.events").fetch_one(connection).await.unwrap();
    u64::try_from(rows).unwrap()
}

/// Waits until there are as many rows as events. The members of the group that died are missed only after their session's time.
async fn wait_for_rows(connection: &mut PgConnection) {
    let begun = Instant::now();
    while rows(connection).await < TOTAL {
        assert!(begun.elapsed() < PATIENCE, "{} rows after {PATIENCE:?}", rows(connection).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn sent(mut sender: Process, count: u64) {
    assert_eq!(sender.ended().await.code(), Some(0), "{}", sender.log());
    assert_eq!(sender.output().trim(), format!("{count} accepted, 0 duplicates, 0 refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_are_each_one_row_in_log_order_while_two_materializers_come_and_go() {
    let system = System::shared().await;
    let ingest = system.role("ingest", &[]);
    let base_url = ingest.ready().await;
    let mut apis = Vec::new();
    for name in ["Many", "One", "Two", "Three"] {
        apis.push(Api::of_new_organization(&base_url, &system.operator_token, name).await);
    }
    let file = system.folder().join("events.ndjson");
    std::fs::write(&file, lines(0..FILE)).unwrap();
    let from_file = |api: &Api| system.start_send(api, file.to_str().unwrap(), 4);
    let mut many = system.start_send(&apis[0], "-", 8);
    let mut pipe = many.stdin();

    let mut first = system.role("materializer", &[]);
    tokio::join!(feed(&mut pipe, 0), first.ready());
    let one = from_file(&apis[1]);
    let (second, ()) = tokio::join!(ready(system.role("materializer", &[])), feed(&mut pipe, 1));
    let two = from_file(&apis[2]);
    first.signal(Signal::TERM);
    let (status, ()) = tokio::join!(first.ended(), feed(&mut pipe, 2));
    assert_eq!(status.code(), Some(0), "{}", first.log());
    let three = from_file(&apis[3]);
    let (_first, ()) = tokio::join!(ready(system.role("materializer", &[])), feed(&mut pipe, 3));
    second.signal(Signal::KILL);
    drop(second);
    let (_second, ()) = tokio::join!(ready(system.role("materializer", &[])), feed(&mut pipe, 4));
    drop(pipe);
    tokio::join!(sent(many, STEPS * STEP), sent(one, FILE), sent(two, FILE), sent(three, FILE));

    let mut connection = system.connect().await;
    wait_for_rows(&mut connection).await;
    assert_eq!(rows(&mut connection).await, TOTAL, "exactly");
    for (api, count) in apis.iter().zip([STEPS * STEP, FILE, FILE, FILE]) {
        pages_are_the_log(&mut connection, api, count).await;
    }
}

/// The inbox, paged, is what the log has, in the log's order, without a gap or a repeat.
async fn pages_are_the_log(connection: &mut PgConnection, api: &Api, count: u64) {
    let inbox = api.inbox(1000).await;
    let log: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT event_id FROM contract.events WHERE org_id = $1::uuid ORDER BY log_epoch, log_partition, log_offset")
            .bind(&api.org_id)
            .fetch_all(connection)
            .await
            .unwrap();
    let log: Vec<String> = log.iter().map(ToString::to_string).collect();
    assert!(ids(&inbox) == log, "{} in the inbox, {} in the log", inbox.len(), log.len());
    let mut payloads: Vec<u64> = inbox.iter().map(|event| event["payload"].as_u64().unwrap()).collect();
    payloads.sort_unstable();
    assert!(payloads == (0..count).collect::<Vec<_>>(), "every line is there once");
}
