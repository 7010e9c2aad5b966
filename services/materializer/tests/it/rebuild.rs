//! Rebuilds and replays: the same log and the same duplicate decisions give the same view, however often, and expired
//! rows do not come back.

mod copied_rows;
mod differences;
mod harness;
mod partition_order;

use kafka::KafkaConfig;
use materializer::rebuild::{self, RebuildConfig, RebuildError};
use schemas::ids::{EndpointId, EventId};
use schemas::records::{Dedup, DeliveryAttempt, DeliveryOutcome};
use testkit::records::attempt;
use time::OffsetDateTime;

use crate::projector::harness::{Bench, event, keyed, stranger};
use crate::projector::retention::append_to;

use harness::{NONE, REBUILD, assert_rereading_changes_nothing, rebuild, replay, shown, write_a_log};

#[tokio::test(flavor = "multi_thread")]
async fn rebuild_and_replay_twice_give_the_same_view() {
    let bench = Bench::start().await;
    let (org, projecting) = write_a_log(&bench).await;
    let before = shown(&bench).await;
    assert!(before.len() > 15);
    for _ in 0..2 {
        let done = rebuild(&bench, REBUILD).await;
        assert_eq!((done.differences.as_slice(), done.switched, done.carried), (NONE, true, 0));
        assert!(done.records > 30);
        assert_eq!(shown(&bench).await, before);
    }
    for _ in 0..2 {
        assert!(!replay(&bench).await.cut_short);
        assert_eq!(shown(&bench).await, before);
    }
    assert_eq!(bench.count("SELECT count(*) FROM consumer_positions WHERE consumer <> 'materializer'").await, 0);
    // The projector was fenced and has found the new tables; so have readers of the contract views.
    bench.flow(&[org], 5).await;
    bench.all_applied().await;
    assert_eq!(
        bench.count("SELECT count(*) FROM contract.events").await,
        bench.count("SELECT count(*) FROM view.events").await
    );
    assert_eq!(bench.in_log_order().await.len() + 5, before.len() - bench_rest(&bench).await + 5 + 5);
    assert_eq!(
        bench.count("SELECT count(*) FROM pg_namespace WHERE nspname IN ('view_next', 'view_retired')").await,
        0
    );
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_effects_stay_when_only_a_duplicate_is_read() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let (twin, original) = (event(org), keyed(org, Dedup::dedup_id("k", b"")));
    let repeat = keyed(org, Dedup::dedup_id("k", b""));
    append_to(&bench, 2, &twin).await;
    for event in [&original, &repeat] {
        bench.event(event).await;
    }
    bench.all_applied().await;
    let before = bench.in_log_order().await;
    // The state of a rebuild that has not read these records yet.
    sqlx::query("DELETE FROM view.events").execute(&bench.pool).await.unwrap();
    for id in [twin.event_id, repeat.event_id] {
        bench.ack(org, id).await;
    }
    bench.attempt(&attempt(org, twin.event_id, EndpointId::generate(), 1, DeliveryOutcome::Delivered)).await;
    bench.all_applied().await;
    append_to(&bench, 0, &twin).await;
    append_to(&bench, 0, &repeat).await;
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 0);
    assert_eq!(bench.count("SELECT count(*) FROM view.pending_effects").await, 3);

    replay(&bench).await;
    assert_eq!(bench.in_log_order().await, before);
    let done =
        "SELECT count(*) FROM view.events WHERE acknowledged_at IS NOT NULL AND (attempts, delivery_status) = ($1, $2)";
    for (attempts, status) in [(1, "delivered"), (0, "pending")] {
        let found: i64 = sqlx::query_scalar(done).bind(attempts).bind(status).fetch_one(&bench.pool).await.unwrap();
        assert_eq!(found, 1, "{status}");
    }
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn abandon_deletes_the_positions_of_a_killed_replay() {
    let bench = Bench::start().await;
    let left = "SELECT count(*) FROM consumer_positions";
    let sql = "INSERT INTO consumer_positions (consumer, topic, partition, next_offset) VALUES ($1, 't', 0, 7)";
    sqlx::query(sql).bind(rebuild::REPLAY).execute(&bench.pool).await.unwrap();
    assert_eq!(bench.count(left).await, 1);
    rebuild::abandon(&bench.pool).await.unwrap();
    assert_eq!(bench.count(left).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_between_two_reports_keeps_the_later_one() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let (sent, endpoint) = (event(org), EndpointId::generate());
    bench.event(&sent).await;
    bench.attempt(&attempt(org, sent.event_id, endpoint, 1, DeliveryOutcome::Retrying)).await;
    // Also reports of a dispatcher that was halted: the attempt that it started first is reported last.
    let shifts = [7_000_000, -7_000_000];
    let alike = shifts.map(|_| attempt(org, sent.event_id, EndpointId::generate(), 1, DeliveryOutcome::Delivered));
    bench.attempt(&alike[0]).await;
    let first = bench.attempt(&alike[1]).await;
    // Later only by its offset: the clock of its dispatcher was behind.
    let mut again = attempt(org, sent.event_id, endpoint, 1, DeliveryOutcome::Delivered);
    again.started_at -= 5_000_000;
    let between = loop {
        let passed = bench.event(&event(org)).await.timestamp_ms.unwrap();
        if passed > first.timestamp_ms.unwrap() {
            break passed;
        }
    };
    bench.attempt(&again).await;
    for (first, shift) in alike.into_iter().zip(shifts) {
        bench.attempt(&DeliveryAttempt { started_at: first.started_at + shift, latency_ms: 5, ..first }).await;
    }
    bench.all_applied().await;
    let before = shown(&bench).await;
    assert_eq!(bench.row(org, sent.event_id).await.unwrap().delivery_status, "delivered");
    let to = OffsetDateTime::from_unix_timestamp_nanos(i128::from(between) * 1_000_000).unwrap();
    let times = (to - time::Duration::hours(1), Some(to));
    assert!(rebuild::replay(bench.pool.clone(), bench.kafka.clone(), times, 30, |_| {}).await.unwrap().records > 0);
    assert_eq!(shown(&bench).await, before);
    projecting.stop().await;
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_topics_and_future_times_are_rejected() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    bench.flow(&[org], 3).await;
    bench.all_applied().await;
    let before = shown(&bench).await;
    let (elsewhere, hour) = (KafkaConfig::new(&bench.kafka.brokers, "elsewhere."), time::Duration::hours(1));
    let accepting = RebuildConfig { accept_differences: true, ..REBUILD };
    let refused = rebuild::rebuild(bench.pool.clone(), elsewhere.clone(), accepting, |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("is the topic prefix right?"), "{refused}");
    let now = OffsetDateTime::now_utc();
    let to_come = RebuildConfig { from: Some(now + hour), ..REBUILD };
    let refused = rebuild::rebuild(bench.pool.clone(), bench.kafka.clone(), to_come, |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("in the future"), "{refused}");
    for (kafka, times) in [
        (elsewhere, (now - hour, None)),
        (bench.kafka.clone(), (now + hour, None)),
        (bench.kafka.clone(), (now, Some(now - hour))),
    ] {
        assert!(matches!(
            rebuild::replay(bench.pool.clone(), kafka, times, 30, |_| {}).await,
            Err(RebuildError::Unsuitable(_))
        ));
    }
    assert_eq!(
        bench.count("SELECT count(*) FROM pg_namespace WHERE nspname IN ('view_next', 'view_retired')").await,
        0
    );
    assert_eq!(shown(&bench).await, before);
    projecting.stop().await;
}

/// Number of rows of [`shown`] that are no events.
async fn bench_rest(bench: &Bench) -> usize {
    let statement = "SELECT (SELECT count(*) FROM view.deliveries) + (SELECT count(*) FROM view.delivery_attempts)
                            + (SELECT count(*) FROM rejected)";
    usize::try_from(bench.count(statement).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_under_load_shows_every_event_once() {
    let bench = Bench::start().await;
    let orgs = [bench.organization(0).await, bench.organization(1).await, bench.organization(2).await];
    let projecting = bench.project();
    bench.flow(&orgs, 300).await;
    let flowing = bench.flowing(&orgs, 3_000);
    let mut switched = 0;
    while !flowing.is_finished() || switched == 0 {
        let done = rebuild(&bench, REBUILD).await;
        assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
        switched += 1;
    }
    let ids = flowing.await.unwrap();
    bench.all_applied().await;
    let shown: std::collections::BTreeSet<EventId> =
        bench.in_log_order().await.into_iter().map(|(.., id)| id).collect();
    assert_eq!(bench.in_log_order().await.len(), 3_300);
    assert!(ids.iter().all(|id| shown.contains(id)));
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_records_stay_rejected() {
    let bench = Bench::start().await;
    let (org, late) = (bench.organization(0).await, stranger(1));
    let projecting = bench.project();
    bench.flow(&[org], 5).await;
    for _ in 0..2 {
        bench.event(&keyed(late, Dedup::dedup_id("k", b""))).await;
    }
    bench.all_applied().await;
    assert_eq!(bench.dead_letters().await.len(), 2);
    sqlx::query("INSERT INTO organizations (id, name) VALUES ($1, 'Late')")
        .bind(late.as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
    // An accepted event: the organization exists from now on.
    bench.flow(&[late], 1).await;
    bench.all_applied().await;
    assert_rereading_changes_nothing(&bench).await;
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_left_by_a_killed_rebuild_do_no_harm() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    bench.flow(&[org], 5).await;
    bench.all_applied().await;
    let left = "CREATE SCHEMA view_retired; CREATE TABLE view_retired.events (org_id uuid)";
    let retired = "SELECT count(*) FROM pg_namespace WHERE nspname = 'view_retired'";
    sqlx::raw_sql(left).execute(&bench.pool).await.unwrap();
    assert!(rebuild(&bench, REBUILD).await.switched);
    assert_eq!(bench.count(retired).await, 0);
    sqlx::raw_sql(left).execute(&bench.pool).await.unwrap();
    rebuild::abandon(&bench.pool).await.unwrap();
    assert_eq!(bench.count(retired).await, 0);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_key_and_expired_events_stay_as_they_are() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let dedup = Dedup { window_seconds: 1, ..Dedup::dedup_id("k", b"") };
    let mut used = Vec::new();
    for _ in 0..3 {
        let again = keyed(org, dedup.clone());
        let at = bench.event(&again).await.timestamp_ms.unwrap();
        used.push(again.event_id);
        // Until the append time is past the window.
        while bench.event(&event(org)).await.timestamp_ms.unwrap() <= at + 1000 {}
    }
    bench.all_applied().await;
    let rows = bench.in_log_order().await;
    assert!(
        used.iter().all(|id| rows.iter().any(|(.., shown)| shown == id)),
        "each use of the key is a separate event"
    );
    let before = shown(&bench).await;
    assert!(rebuild(&bench, REBUILD).await.switched);
    replay(&bench).await;
    assert_eq!(shown(&bench).await, before);
    projecting.stop().await;
    // All events expire: neither a replay nor a rebuild brings them back from the log.
    assert!(
        bench
            .count(
                "SELECT count(*) FROM (SELECT view_drop_time_partition(starts_at) FROM view.time_partitions) AS dropped"
            )
            .await
            > 0
    );
    replay(&bench).await;
    assert_eq!(bench.in_log_order().await.len(), 0);
    assert!(rebuild(&bench, REBUILD).await.switched);
    assert_eq!(bench.in_log_order().await.len(), 0);
}
