//! A batch that is small on the network, and large when it is decompressed.

use std::fs;
use std::time::Duration;

use devstack::testing::eventually;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use schemas::topics;
use serde_json::json;

use crate::api::Api;
use crate::system::System;

const PATIENCE: Duration = Duration::from_secs(90);
const RECORDS: usize = 500;
/// Below the largest payload, so that each record is an event.
const PAYLOAD_BYTES: usize = 200_000;
/// The batch has 100 MB, which the brokers can hold while they compress it again. librdkafka takes 33 MB of a zstd
/// batch without a size in it, and 8 MB for its work. Two clients may do so at the same time: the consumer, which tries
/// again and again, and the check that finds out why it has no records.
const MOST_GROWTH_KIB: u64 = 90 * 1024;

/// The largest resident memory that the process ever had.
fn peak_memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Writes one gzip batch of valid events.
fn write_bomb(brokers: &str, topic: &str, partition: i32, org: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", "gzip")
        .set("message.max.bytes", "1000000000")
        .set("batch.size", "1000000000")
        .set("queue.buffering.max.kbytes", "1000000")
        .set("linger.ms", "60000")
        .create()
        .unwrap();
    let value = format!(r#"{{"event_type": "bomb", "payload": "{}"}}"#, "0".repeat(PAYLOAD_BYTES));
    for _ in 0..RECORDS {
        let record = BaseRecord::to(topic).partition(partition).key(org).payload(&value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    // Flushing ends the wait for more records.
    producer.flush(PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gzip_bomb_stops_its_partition_and_fills_no_memory() {
    let system = System::shared().await;
    let (_ingest, materializer, api) = system.inbox_roles(&[]).await;
    let topic = system.topic(topics::EVENTS);
    // An event before it, so that all memory of normal work is in use.
    let id = api.accept("before", &json!(1)).await;
    api.shown(&id, PATIENCE).await;
    let before = peak_memory_kib(materializer.pid());
    let (brokers, org, partition) = (system.brokers.clone(), api.org_id.clone(), partition_of(&api));
    tokio::task::spawn_blocking(move || write_bomb(&brokers, &topic, partition, &org)).await.unwrap();
    eventually(PATIENCE, "the partition is stopped", || async {
        materializer.log().contains("cannot be decoded").then_some(())
    })
    .await;
    let growth = peak_memory_kib(materializer.pid()).saturating_sub(before);
    assert!(growth < MOST_GROWTH_KIB, "decompressing 100 MB took {growth} KiB");
    eprintln!("the materializer grew by {growth} KiB");

    // The other partitions go on.
    let other = eventually(PATIENCE, "an organization of another partition", || async {
        let other = Api::of_new_organization(&api.base_url, &system.operator_token, "Other").await;
        (partition_of(&other) != partition).then_some(other)
    })
    .await;
    let id = other.accept("after", &json!(1)).await;
    other.shown(&id, PATIENCE).await;
}

/// The partition of an organization's events.
fn partition_of(api: &Api) -> i32 {
    kafka::partition::of_key(api.org_id.as_bytes(), i32::try_from(crate::system::PARTITIONS).unwrap())
}
