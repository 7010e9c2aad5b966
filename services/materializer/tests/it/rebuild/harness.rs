//! Runs rebuilds and replays, and writes the logs that they read.

use std::time::Duration;

use materializer::rebuild::{self, RebuildConfig, Rebuilt, Replayed, ViewDifference};
use schemas::ids::{EndpointId, EventId, OrgId};
use schemas::records::{Dedup, DeliveryOutcome, Event};
use testkit::records::attempt;
use time::OffsetDateTime;

use crate::projector::harness::{Bench, Projecting, event, keyed};
use crate::projector::retention::append_to;

pub(super) const REBUILD: RebuildConfig =
    RebuildConfig { from: None, retention_days: 30, accept_differences: false, restart: false, dry_run: false };

pub(super) const NONE: &[ViewDifference] = &[];

pub(super) async fn rebuild(bench: &Bench, config: RebuildConfig) -> Rebuilt {
    rebuild::rebuild(bench.pool.clone(), bench.kafka.clone(), config, |_| {}).await.unwrap()
}

pub(super) async fn replay(bench: &Bench) -> Replayed {
    let from = OffsetDateTime::now_utc() - time::Duration::days(1);
    rebuild::replay(bench.pool.clone(), bench.kafka.clone(), (from, None), 30, |_| {}).await.unwrap()
}

/// Asserts that neither a replay nor a rebuild changes what is shown.
pub(super) async fn assert_rereading_changes_nothing(bench: &Bench) {
    let before = shown(bench).await;
    replay(bench).await;
    assert_eq!(shown(bench).await, before, "replay");
    let done = rebuild(bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
    assert_eq!(shown(bench).await, before, "rebuild");
}

/// All rows that are shown, as text.
pub(super) async fn shown(bench: &Bench) -> Vec<String> {
    let statement = "SELECT t::text FROM view.events t UNION ALL SELECT t::text FROM view.deliveries t
                     UNION ALL SELECT t::text FROM view.delivery_attempts t UNION ALL SELECT t::text FROM rejected t
                     ORDER BY 1";
    sqlx::query_scalar(statement).fetch_all(&bench.pool).await.unwrap()
}

/// A log with all kinds of records: events without and with dedup keys, duplicates, one id in two partitions, acks
/// before and after their events, attempts, garbage, and an organization that is erased afterwards.
pub(super) async fn write_a_log(bench: &Bench) -> (OrgId, Projecting) {
    let (org, erased) = (bench.organization(0).await, bench.organization(1).await);
    let projecting = bench.project();
    let plain = bench.flow(&[org, erased], 20).await;
    let (first, repeat) = (keyed(org, Dedup::dedup_id("k", b"")), keyed(org, Dedup::dedup_id("k", b"")));
    bench.event(&first).await;
    bench.event(&repeat).await;
    // One key in two partitions: the record that is read first is the original, and stays so.
    let far = keyed(org, Dedup::dedup_id("k", b""));
    append_to(bench, 2, &far).await;
    let twins = [event(org), Event { event_id: EventId::derived_from_position("t", 0, 0, 0), ..event(org) }];
    for (twin, [first, second]) in twins.iter().zip([[1, 2], [2, 1]]) {
        append_to(bench, first, twin).await;
        bench.all_applied().await;
        append_to(bench, second, twin).await;
    }
    bench.json_event(org, r#"{"event_type": "a", "payload": 1}"#).await;
    bench.json_event(org, "garbage").await;
    let early = event(org);
    bench.ack(org, early.event_id).await;
    bench.all_applied().await;
    bench.event(&early).await;
    for id in [plain[0], repeat.event_id, far.event_id] {
        bench.ack(org, id).await;
    }
    let endpoint = EndpointId::generate();
    bench.attempt(&attempt(org, plain[2], endpoint, 1, DeliveryOutcome::Retrying)).await;
    bench.attempt(&attempt(org, plain[2], endpoint, 2, DeliveryOutcome::Delivered)).await;
    bench.attempt(&attempt(org, plain[4], endpoint, 1, DeliveryOutcome::Failed)).await;
    bench.all_applied().await;
    sqlx::query("UPDATE organizations SET status = 'erased' WHERE id = $1")
        .bind(erased.as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
    sqlx::query("DELETE FROM view.events WHERE org_id = $1").bind(erased.as_uuid()).execute(&bench.pool).await.unwrap();
    (org, projecting)
}

/// Deletes the records before `offset`, as an operator or retention does.
pub(super) async fn truncate(bench: &Bench, topic: &str, partition: i32, offset: i64) {
    use rdkafka::admin::{AdminClient, AdminOptions};
    use rdkafka::client::DefaultClientContext;
    use rdkafka::{ClientConfig, Offset, TopicPartitionList};
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &bench.kafka.brokers).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    for element in admin.delete_records(&list, &options).await.unwrap().elements() {
        element.error().unwrap();
    }
}
