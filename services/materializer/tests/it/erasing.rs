//! Erasing an organization while its records arrive and the view is rebuilt: no row of it is left, and none comes back.

use materializer::rebuild::{self, RebuildConfig, RebuildError};
use schemas::ids::{EndpointId, EventId, OrgId};
use schemas::records::{Dedup, DeliveryOutcome, Event};
use testkit::records::attempt;
use time::OffsetDateTime;

use crate::projector::harness::{Bench, PATIENCE, event, keyed};
use crate::projector::retention::append_to;

const REBUILD: RebuildConfig =
    RebuildConfig { from: None, retention_days: 30, accept_differences: false, restart: false, dry_run: false };

/// Rows of an organization over all tables of the materializer.
async fn rows_of(bench: &Bench, org: OrgId) -> i64 {
    let statement = "SELECT (SELECT count(*) FROM view.events WHERE org_id = $1)
             + (SELECT count(*) FROM view.deliveries WHERE org_id = $1)
             + (SELECT count(*) FROM view.delivery_attempts WHERE org_id = $1)
             + (SELECT count(*) FROM view.pending_effects WHERE org_id = $1)
             + (SELECT count(*) FROM rejected WHERE org_id = $1) + (SELECT count(*) FROM dedup_keys WHERE org_id = $1)
             + (SELECT count(*) FROM event_ids WHERE org_id = $1)
             + (SELECT count(*) FROM retention_gaps WHERE org_id = $1)";
    sqlx::query_scalar(statement).bind(org.as_uuid()).fetch_one(&bench.pool).await.unwrap()
}

/// Appends records for each of the tables.
async fn write_everything(bench: &Bench, org: OrgId) {
    let ids = bench.flow(&[org], 10).await;
    for _ in 0..2 {
        bench.event(&keyed(org, Dedup::dedup_id("k", b""))).await;
    }
    append_to(bench, 1, &Event { event_id: EventId::derived_from_position("t", 0, 0, 0), ..event(org) }).await;
    bench.json_event(org, "garbage").await;
    bench.ack(org, EventId::generate()).await;
    bench.ack(org, ids[1]).await;
    bench.attempt(&attempt(org, ids[0], EndpointId::generate(), 1, DeliveryOutcome::Retrying)).await;
    bench.append(&bench.topics().deliveries, Some(org.to_string().as_bytes()), Some(b"garbage"), &[]).await;
}

async fn set_status(bench: &Bench, org: OrgId, status: &str) {
    let statement = "UPDATE organizations SET status = $2 WHERE id = $1";
    sqlx::query(statement).bind(org.as_uuid()).bind(status).execute(&bench.pool).await.unwrap();
}

/// `false`: the erasure held the lock, so the rebuild did not run.
async fn rebuilt(bench: &Bench) -> bool {
    match rebuild::rebuild(bench.pool.clone(), bench.kafka.clone(), REBUILD, |_| {}).await {
        Ok(done) => {
            assert!(done.switched, "{:?}", done.differences);
            true
        }
        Err(RebuildError::Busy(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_is_erased_under_load_and_rebuilds() {
    let bench = Bench::start().await;
    let (kept, erased) = (bench.organization(0).await, bench.organization(1).await);
    let projecting = bench.project();
    write_everything(&bench, kept).await;
    write_everything(&bench, erased).await;
    sqlx::query("INSERT INTO retention_gaps VALUES ($1, 1, 1, 1, now())")
        .bind(erased.as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
    bench.all_applied().await;
    let dead_letters = bench.dead_letters().await.len();
    assert_eq!(dead_letters, 4, "two of each organization");
    let (ours, theirs) = (bench.flowing(&[kept], 2_000), bench.flowing(&[erased], 2_000));
    bench.shown(300).await;

    set_status(&bench, erased, "erasing").await;
    let mut rebuilds = 0;
    while !ours.is_finished() || !theirs.is_finished() || rebuilds < 2 {
        rebuilds += usize::from(rebuilt(&bench).await);
    }
    write_everything(&bench, erased).await;
    devstack::testing::eventually(PATIENCE, "the materializer is done", || async {
        (bench.count("SELECT count(*) FROM erasures WHERE consumer = 'materializer' AND done_at IS NOT NULL").await
            == 1)
            .then_some(())
    })
    .await;
    let ids = ours.await.unwrap();
    theirs.await.unwrap();
    write_everything(&bench, erased).await;
    bench.all_applied().await;
    assert_eq!((rows_of(&bench, erased).await, bench.dead_letters().await.len()), (0, dead_letters));
    let of_kept = rows_of(&bench, kept).await;
    for id in ids {
        assert!(bench.row(kept, id).await.is_some(), "an event of the other organization is missing");
    }

    // As when the dispatcher is done as well.
    sqlx::query("INSERT INTO erasures (org_id, consumer) VALUES ($1, 'dispatcher')")
        .bind(erased.as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
    sqlx::query("UPDATE erasures SET done_at = now() WHERE consumer = 'dispatcher'")
        .execute(&bench.pool)
        .await
        .unwrap();
    assert_eq!(bench.count("SELECT count(*) FROM organizations WHERE status = 'erased'").await, 1);
    assert!(rebuilt(&bench).await);
    let from = OffsetDateTime::now_utc() - time::Duration::days(1);
    rebuild::replay(bench.pool.clone(), bench.kafka.clone(), (from, None), 30, |_| {}).await.unwrap();
    assert_eq!((rows_of(&bench, erased).await, rows_of(&bench, kept).await), (0, of_kept));
    projecting.stop().await;
}

const DONE: &str = "SELECT count(*) FROM erasures WHERE done_at IS NOT NULL";

/// Waits until the end offsets of the log are stored, and then for a complete round of the erasing task: a round that
/// started before may delete the first row, so the second row is deleted by a later round.
async fn wait_for_a_round(bench: &Bench, org: OrgId) {
    devstack::testing::eventually(PATIENCE, "the end offsets of the log are stored", || async {
        (bench.count("SELECT count(*) FROM erasures WHERE ends IS NOT NULL").await == 1).then_some(())
    })
    .await;
    for _ in 0..2 {
        sqlx::query("INSERT INTO retention_gaps VALUES ($1, 1, 1, 1, now())")
            .bind(org.as_uuid())
            .execute(&bench.pool)
            .await
            .unwrap();
        devstack::testing::eventually(PATIENCE, "nothing is left", || async {
            (rows_of(bench, org).await == 0).then_some(())
        })
        .await;
    }
}

/// Each has an index of its own, which the erasing task reads.
#[tokio::test(flavor = "multi_thread")]
async fn open_and_acknowledged_events_are_erased() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let ids = bench.flow(&[org], 3).await;
    bench.ack(org, ids[1]).await;
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events WHERE acknowledged_at IS NULL").await, 2);
    assert_eq!(bench.count("SELECT count(*) FROM view.events WHERE acknowledged_at IS NOT NULL").await, 1);
    set_status(&bench, org, "erasing").await;
    let is_erased = || async { (rows_of(&bench, org).await == 0).then_some(()) };
    devstack::testing::eventually(PATIENCE, "nothing is left", is_erased).await;
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_waits_for_the_positions() {
    let bench = Bench::start().await;
    let erased = bench.organization(1).await;
    bench.flow(&[erased], 5).await;
    let projecting = bench.project();
    bench.all_applied().await;
    // One position is locked before a record of the organization.
    let mut lock =
        runtime::postgres::begin_with(&bench.pool, "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0")
            .await
            .unwrap();
    sqlx::query("SELECT FROM consumer_positions WHERE topic = $1 AND partition = 1 FOR UPDATE")
        .bind(&bench.topics().acks)
        .execute(&mut *lock)
        .await
        .unwrap();
    bench.ack(erased, EventId::generate()).await;
    set_status(&bench, erased, "erasing").await;
    wait_for_a_round(&bench, erased).await;
    assert_eq!(bench.count(DONE).await, 0);
    lock.rollback().await.unwrap();
    bench.all_applied().await;
    devstack::testing::eventually(PATIENCE, "it is done", || async { (bench.count(DONE).await == 1).then_some(()) })
        .await;
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_waits_for_an_unfinished_rebuild() {
    let bench = Bench::start().await;
    let erased = bench.organization(1).await;
    bench.flow(&[erased], 5).await;
    let projecting = bench.project();
    bench.all_applied().await;
    sqlx::query("SELECT view_create_next()").execute(&bench.pool).await.unwrap();
    set_status(&bench, erased, "erasing").await;
    wait_for_a_round(&bench, erased).await;
    assert_eq!(bench.count(DONE).await, 0);
    rebuild::abandon(&bench.pool).await.unwrap();
    devstack::testing::eventually(PATIENCE, "it is done", || async { (bench.count(DONE).await == 1).then_some(()) })
        .await;
    projecting.stop().await;
}
