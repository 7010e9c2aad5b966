//! Rows that a rebuild copies from the live view, because the log no longer has them.

use materializer::rebuild::RebuildConfig;
use schemas::ids::{EndpointId, EventId};
use schemas::records::DeliveryOutcome;
use testkit::records::attempt;
use time::OffsetDateTime;

use crate::projector::harness::{Bench, event};
use crate::projector::retention::append_to;

use super::harness::{NONE, REBUILD, rebuild, replay, shown, truncate, write_a_log};

#[tokio::test(flavor = "multi_thread")]
async fn rows_no_longer_on_the_log_are_copied_forward() {
    let bench = Bench::start().await;
    let (org, projecting) = write_a_log(&bench).await;
    // Events that stay on the log, with attempts and acks that do not.
    for _ in 0..50 {
        let late = event(org);
        bench.event(&late).await;
        bench.attempt(&attempt(org, late.event_id, EndpointId::generate(), 1, DeliveryOutcome::Delivered)).await;
        bench.ack(org, late.event_id).await;
    }
    bench.all_applied().await;
    let before = shown(&bench).await;
    // As retention does: it deletes acks and deliveries first, which is the worse case, and then half of the events.
    for (topic, part) in [(&bench.topics().acks, 1), (&bench.topics().deliveries, 1), (&bench.topics().events, 2)] {
        for partition in 0..3 {
            let position = bench.position(topic, partition).await.unwrap();
            truncate(&bench, topic, partition, position / part).await;
        }
    }
    for _ in 0..2 {
        let done = rebuild(&bench, REBUILD).await;
        assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
        assert!(done.carried > 0);
        assert_eq!(shown(&bench).await, before);
    }
    assert!(replay(&bench).await.cut_short);
    assert_eq!(shown(&bench).await, before);
    let from = OffsetDateTime::now_utc();
    let done = rebuild(&bench, RebuildConfig { from: Some(from), ..REBUILD }).await;
    assert!(
        done.switched && done.records == 0 && done.carried >= u64::try_from(before.len()).unwrap() - 3,
        "all rows are copied"
    );
    assert_eq!(shown(&bench).await, before);
    bench.flow(&[org], 2).await;
    bench.all_applied().await;
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_is_copied_when_its_event_is_in_another_partition() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    // A native producer chooses the partition itself. The ack comes over HTTP, so it is in the partition of the
    // organization.
    let elsewhere = event(org);
    append_to(&bench, 1, &elsewhere).await;
    bench.event(&event(org)).await;
    bench.ack(org, elsewhere.event_id).await;
    bench.all_applied().await;
    let before = shown(&bench).await;
    assert!(bench.row(org, elsewhere.event_id).await.unwrap().acknowledged_at.is_some());
    truncate(&bench, &bench.topics().acks, 0, 1).await;
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
    assert_eq!(shown(&bench).await, before);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_acks_of_an_older_log_are_copied() {
    let bench = Bench::start().await;
    let orgs = [bench.organization(0).await, bench.organization(1).await];
    let projecting = bench.project();
    // The new log of the acks has a record in one partition, and none in the other.
    bench.ack(orgs[0], EventId::generate()).await;
    bench.flow(&orgs, 2).await;
    bench.all_applied().await;
    assert_eq!(bench.position(&bench.topics().acks, 1).await, Some(0));
    projecting.stop().await;
    // As after the topic was recreated and its positions were repaired.
    sqlx::query("UPDATE consumer_positions SET log_epoch = 2 WHERE topic = $1")
        .bind(&bench.topics().acks)
        .execute(&bench.pool)
        .await
        .unwrap();
    let awaited = orgs.map(event);
    for (partition, awaited) in (0_i32..).zip(&awaited) {
        sqlx::query(
            "INSERT INTO view.pending_effects (org_id, event_id, effect, log_partition, log_offset, appended_at)
             VALUES ($1, $2, 'ack', $3, 5, now() - interval '1 day')",
        )
        .bind(awaited.org_id.as_uuid())
        .bind(awaited.event_id.as_uuid())
        .bind(partition)
        .execute(&bench.pool)
        .await
        .unwrap();
    }
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
    let projecting = bench.project();
    for awaited in &awaited {
        bench.event(awaited).await;
    }
    bench.all_applied().await;
    for awaited in &awaited {
        assert!(bench.row(awaited.org_id, awaited.event_id).await.unwrap().acknowledged_at.is_some());
    }
    projecting.stop().await;
}
