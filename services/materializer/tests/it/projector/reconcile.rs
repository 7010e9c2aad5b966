//! Effects and events of different partitions: two writers that cannot see each other's rows before both have
//! committed.

use devstack::testing::eventually;
use schemas::ids::{EndpointId, EventId, OrgId};
use schemas::records::{Dedup, DeliveryOutcome};
use sqlx::postgres::PgConnection;
use testkit::records::attempt;

use super::harness::{Bench, PATIENCE, event, keyed};

const WAITING: &str = "SELECT count(*) FROM view.pending_effects";

/// Does what the writer of another partition does if it does not see the event.
async fn let_wait(connection: &mut PgConnection, org: OrgId, id: EventId, effect: &str) {
    sqlx::query(
        "INSERT INTO view.pending_effects (org_id, event_id, effect, log_partition, log_offset, appended_at)
         VALUES ($1, $2, $3, 2, 0, '2026-11-21T09:00:00Z')",
    )
    .bind(org.as_uuid())
    .bind(id.as_uuid())
    .bind(effect)
    .execute(connection)
    .await
    .unwrap();
}

/// A delivery as its first attempt left it.
async fn retry(connection: &mut PgConnection, org: OrgId, id: EventId) {
    let first = attempt(org, id, EndpointId::generate(), 1, DeliveryOutcome::Retrying);
    sqlx::query(
        "INSERT INTO view.deliveries (org_id, delivery_id, event_id, endpoint_id, event_type, status, rank, attempts,
                                      last_started_at, created_at, last_appended_at)
         VALUES ($1, $2, $3, $4, 'a', 'retrying', 0, 1, now(), now(), now())",
    )
    .bind(org.as_uuid())
    .bind(first.delivery_id.as_uuid())
    .bind(id.as_uuid())
    .bind(first.endpoint_id.as_uuid())
    .execute(connection)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_of_another_writer_are_reconciled_within_seconds() {
    let bench = Bench::start().await;
    let (org, foreign) = (bench.organization(0).await, bench.organization(1).await);
    let (acked, attempted) = (event(org), event(org));
    let (original, duplicate) = (keyed(org, Dedup::dedup_id("k", b"")), keyed(org, Dedup::dedup_id("k", b"")));
    let projecting = bench.project();
    // Neither transaction sees the rows of the other one: this one starts first and commits last.
    let mut other_writer = runtime::postgres::begin(&bench.pool).await.unwrap();
    for id in [acked.event_id, duplicate.event_id] {
        let_wait(&mut other_writer, org, id, "ack").await;
    }
    let_wait(&mut other_writer, foreign, acked.event_id, "ack").await;
    let_wait(&mut other_writer, org, attempted.event_id, "attempt").await;
    retry(&mut other_writer, org, attempted.event_id).await;
    for event in [&acked, &attempted, &original, &duplicate] {
        bench.event(event).await;
    }
    bench.all_applied().await;
    other_writer.commit().await.unwrap();
    eventually(PATIENCE, "the effects are applied", || async { (bench.count(WAITING).await == 1).then_some(()) }).await;
    for id in [acked.event_id, original.event_id] {
        let acknowledged_at = bench.row(org, id).await.unwrap().acknowledged_at.unwrap();
        assert_eq!(acknowledged_at.unix_timestamp(), 1_795_251_600, "its append time");
    }
    let row = bench.row(org, attempted.event_id).await.unwrap();
    assert_eq!((row.delivery_status.as_str(), row.attempts, row.acknowledged_at), ("retrying", 1, None));
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_status_does_not_overwrite_a_concurrent_flush() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let attempted = event(org);
    let projecting = bench.project();
    bench.event(&attempted).await;
    bench.all_applied().await;
    let mut setup = bench.pool.acquire().await.unwrap();
    retry(&mut setup, org, attempted.event_id).await;
    // A flush with the second attempt, up to just before its commit.
    let mut flush = runtime::postgres::begin(&bench.pool).await.unwrap();
    for statement in [
        "UPDATE view.deliveries SET status = 'delivered', attempts = 2 WHERE event_id = $1",
        "UPDATE view.events SET delivery_status = 'delivered', attempts = 2 WHERE event_id = $1",
    ] {
        sqlx::query(statement).bind(attempted.event_id.as_uuid()).execute(&mut *flush).await.unwrap();
    }
    let_wait(&mut setup, org, attempted.event_id, "attempt").await;
    let blocked =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(PATIENCE, "reconciling waits for the flush", || async {
        (bench.count(blocked).await > 0).then_some(())
    })
    .await;
    flush.commit().await.unwrap();
    eventually(PATIENCE, "reconciling has finished", || async { (bench.count(WAITING).await == 0).then_some(()) })
        .await;
    let row = bench.row(org, attempted.event_id).await.unwrap();
    assert_eq!((row.delivery_status.as_str(), row.attempts), ("delivered", 2));
    projecting.stop().await;
}
