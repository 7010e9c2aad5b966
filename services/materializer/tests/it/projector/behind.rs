//! A view that is far behind the log, as after a restore: dedup keys and pending effects are kept until its unread
//! events are read.

use std::time::Duration;

use devstack::testing::eventually;
use materializer::projector::ProjectorConfig;
use schemas::records::Dedup;
use time::OffsetDateTime;

use super::harness::{Bench, PATIENCE, event, keyed};
use super::retention::append_at;

const HOUR: Duration = Duration::from_secs(3600);

/// Waits until a sweep that started after this call has finished: the first row shows that a sweep runs, the second one
/// that it has finished.
async fn swept(bench: &Bench) {
    for _ in 0..2 {
        sqlx::query(
            "INSERT INTO rejected (log_topic, log_partition, log_epoch, log_offset, appended_at, error_class, message)
             VALUES ('t', 0, 1, 0, now() - interval '60 days', 'c', 'm')",
        )
        .execute(&bench.pool)
        .await
        .unwrap();
        eventually(PATIENCE, "a sweep", || async {
            (bench.count("SELECT count(*) FROM rejected WHERE log_topic = 't'").await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_effects_are_kept_for_unread_events() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let dedup = Dedup { window_seconds: 86_400, ..Dedup::dedup_id("k", b"") };
    let (first, repeat, late) = (keyed(org, dedup.clone()), keyed(org, dedup), event(org));
    let at = OffsetDateTime::now_utc() - 20 * 24 * HOUR;
    // The first append makes the topic use the times of the test.
    append_at(&bench, 0, &event(org), at).await;
    append_at(&bench, 0, &first, at).await;
    let projecting = bench.project_as(ProjectorConfig { sweep_interval: HOUR, ..ProjectorConfig::default() });
    bench.all_applied().await;
    projecting.stop().await;
    append_at(&bench, 0, &repeat, at + HOUR).await;
    append_at(&bench, 0, &late, at + HOUR).await;
    sqlx::query(
        "INSERT INTO view.pending_effects (org_id, event_id, effect, log_partition, log_offset, appended_at)
         VALUES ($1, $2, 'ack', 0, 0, $3)",
    )
    .bind(org.as_uuid())
    .bind(late.event_id.as_uuid())
    .bind(at + 2 * HOUR)
    .execute(&bench.pool)
    .await
    .unwrap();

    // No record is read while the positions are locked.
    let mut held =
        runtime::postgres::begin_with(&bench.pool, "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0")
            .await
            .unwrap();
    sqlx::query("SELECT FROM consumer_positions FOR UPDATE").execute(&mut *held).await.unwrap();
    let projecting =
        bench.project_as(ProjectorConfig { sweep_interval: Duration::from_millis(20), ..ProjectorConfig::default() });
    swept(&bench).await;
    assert_eq!(bench.count("SELECT count(*) FROM dedup_keys").await, 1);
    assert_eq!(bench.count("SELECT count(*) FROM view.pending_effects").await, 1);
    held.rollback().await.unwrap();
    bench.all_applied().await;
    assert_eq!(bench.row(org, repeat.event_id).await, None, "a duplicate, an hour after its original");
    assert!(bench.row(org, first.event_id).await.is_some());
    assert!(bench.row(org, late.event_id).await.unwrap().acknowledged_at.is_some());

    // The last record is 20 days old, and all records are read.
    eventually(PATIENCE, "the key is swept", || async {
        (bench.count("SELECT count(*) FROM dedup_keys").await == 0).then_some(())
    })
    .await;
    projecting.stop().await;
}
