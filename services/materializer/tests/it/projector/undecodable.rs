//! A batch that librdkafka cannot decode: its partition stops, and an operator skips it for every reading.

use std::time::Duration;

use kafka::fence::repair::{self, StoredPosition};
use kafka::fence::skip;
use materializer::projector::{CONSUMER, ProjectorConfig};
use materializer::rebuild::{self, RebuildConfig};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use schemas::ids::OrgId;
use time::OffsetDateTime;

use super::harness::{Bench, PATIENCE, event};

/// One batch of good events on partition 0, together more than is decoded: its first and its last offset.
async fn batch(bench: &Bench, org: OrgId) -> (i64, i64) {
    let native: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.kafka.brokers)
        .set("compression.type", "zstd")
        .set("message.max.bytes", "10000000")
        .set("batch.size", "10000000")
        .set("linger.ms", "1000")
        .create()
        .unwrap();
    let (events, key) = (&bench.topics().events, org.to_string());
    let value = format!(r#"{{"type": "a", "data": "{}"}}"#, "x".repeat(200_000));
    let record = || native.send(FutureRecord::to(events).partition(0).key(&key).payload(&value), PATIENCE);
    let appended = futures_util::future::try_join_all((0..6).map(|_| record())).await.unwrap();
    let offsets = || appended.iter().map(|appended| appended.offset);
    bench.note(events, 0, offsets().max().unwrap());
    (offsets().min().unwrap(), offsets().max().unwrap())
}

async fn stored(bench: &Bench) -> StoredPosition {
    let is_meant = |position: &StoredPosition| {
        (position.consumer.as_str(), position.topic.as_str(), position.partition)
            == (CONSUMER, &bench.topics().events, 0)
    };
    repair::positions(&bench.pool).await.unwrap().into_iter().find(is_meant).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_batch_is_skipped_by_every_reading() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let before = event(org);
    bench.event(&before).await;
    let (first, last) = batch(&bench, org).await;
    let after = event(org);
    bench.event(&after).await;
    let mut bounded = bench.clone();
    for (name, value) in [("fetch.max.bytes", "1000000"), ("receive.message.max.bytes", "1001000")] {
        bounded.kafka.properties.push((name.to_owned(), value.to_owned()));
    }
    let config = ProjectorConfig { stall_after: Duration::from_secs(2), ..ProjectorConfig::default() };
    let projecting = bounded.project_as(config);
    projecting.is_ready(true).await;
    projecting.is_ready(false).await;
    assert!(bench.row(org, before.event_id).await.is_some(), "records before the batch are in the view");
    let position = stored(&bench).await;
    assert_eq!(position.next_offset, first);
    assert!(skip::skip(&bench.pool, &[&position], last + 1).await.unwrap());
    assert!(!skip::skip(&bench.pool, &[&position], last + 1).await.unwrap(), "the skip is not needed any more");
    bench.all_applied().await;
    projecting.is_ready(true).await;
    assert!(bench.row(org, after.event_id).await.is_some());
    assert!(bench.dead_letters().await.is_empty());
    let from = OffsetDateTime::now_utc() - time::Duration::days(1);
    let config =
        RebuildConfig { from: None, retention_days: 30, accept_differences: false, restart: false, dry_run: false };
    // Also readers that could decode it.
    for reader in [&bounded, &bench] {
        rebuild::replay(reader.pool.clone(), reader.kafka.clone(), (from, None), 30, |_| {}).await.unwrap();
        let done = rebuild::rebuild(reader.pool.clone(), reader.kafka.clone(), config.clone(), |_| {}).await.unwrap();
        assert!(done.switched, "{:?}", done.differences);
        assert_eq!(bench.in_log_order().await.len(), 2);
    }
    // The same offsets of another log are not skipped.
    assert_eq!(skip::skipped_ranges(&bench.pool, CONSUMER).await.unwrap().len(), 1);
    let position = stored(&bench).await;
    projecting.stop().await;
    let position = StoredPosition { next_offset: stored(&bench).await.next_offset, ..position };
    let (topic, log) = (position.topic.as_str(), repair::LogChange::NewLog);
    repair::repair(&bench.pool, topic, 0, &[&position], 0, log, None).await.unwrap().unwrap();
    assert_eq!(skip::skipped_ranges(&bench.pool, CONSUMER).await.unwrap(), []);
}
