//! Differences between the live view and the rebuilt one.

use materializer::rebuild::{RebuildConfig, ViewDifference};
use schemas::ids::EndpointId;
use schemas::records::DeliveryOutcome;
use schemas::unix_time::from_millis;
use testkit::records::attempt;

use crate::projector::harness::{Bench, event};

use super::harness::{NONE, REBUILD, rebuild, replay, shown};

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_differs_is_replaced_only_when_accepted() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let ids = bench.flow(&[org], 30).await;
    bench.all_applied().await;
    let before = shown(&bench).await;
    sqlx::query("DELETE FROM view.events WHERE event_id = $1")
        .bind(ids[3].as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
    let damaged = shown(&bench).await;
    let expected = [ViewDifference { organization: org, table: "events", live: 29, rebuilt: 30 }];

    let found = rebuild(&bench, RebuildConfig { dry_run: true, ..REBUILD }).await;
    assert_eq!((found.differences.as_slice(), found.switched), (&expected[..], false));
    assert_eq!(
        bench.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'view_next'").await,
        0,
        "its tables are deleted"
    );
    let found = rebuild(&bench, REBUILD).await;
    assert_eq!((found.differences.as_slice(), found.switched, found.records > 0), (&expected[..], false, true));
    assert_eq!(shown(&bench).await, damaged);
    let done = rebuild(&bench, RebuildConfig { accept_differences: true, ..REBUILD }).await;
    assert_eq!((done.switched, done.records), (true, 0), "it continues the finished rebuild");
    assert_eq!(shown(&bench).await, before);

    sqlx::query("DELETE FROM view.events WHERE event_id = $1")
        .bind(ids[3].as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
    replay(&bench).await;
    assert_eq!(shown(&bench).await, before, "a replay restores missing rows");
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_differs_in_any_column_is_reported() {
    let bench = Bench::start().await;
    let projecting = bench.project();
    let columns = [
        "event_type = 'b'",
        "status = 'failed'",
        "attempts = 7",
        "last_started_at = now()",
        "last_status_code = 500",
        "last_error = 'none'",
        "next_attempt_at = now()",
        "created_at = now()",
    ];
    let mut expected = Vec::new();
    for column in columns {
        let org = bench.organization(0).await;
        let sent = event(org);
        bench.event(&sent).await;
        bench.attempt(&attempt(org, sent.event_id, EndpointId::generate(), 1, DeliveryOutcome::Retrying)).await;
        bench.all_applied().await;
        let statement = sqlx::AssertSqlSafe(format!("UPDATE view.deliveries SET {column} WHERE org_id = $1"));
        sqlx::query(statement).bind(org.as_uuid()).execute(&bench.pool).await.unwrap();
        expected.push(ViewDifference { organization: org, table: "deliveries", live: 1, rebuilt: 1 });
    }
    expected.sort_by_key(|difference| difference.organization);
    let found = rebuild(&bench, RebuildConfig { dry_run: true, ..REBUILD }).await;
    assert_eq!(found.differences, expected);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_below_the_floor_become_a_gap_not_a_difference() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let below = event(org);
    bench.event(&below).await;
    let sent = attempt(org, below.event_id, EndpointId::generate(), 1, DeliveryOutcome::Delivered);
    let last = bench.attempt(&sent).await.timestamp_ms.unwrap();
    let above = event(org);
    while bench.event(&event(org)).await.timestamp_ms.unwrap() <= last {}
    bench.event(&above).await;
    bench.all_applied().await;
    projecting.stop().await;
    // As when the retention is lowered: the floor is on the grid of the new time partitions, inside of an old one.
    sqlx::query("UPDATE retention_floor SET floor = $1")
        .bind(from_millis(last + 1))
        .execute(&bench.pool)
        .await
        .unwrap();
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
    assert_eq!(bench.row(org, below.event_id).await, None);
    assert!(bench.row(org, above.event_id).await.is_some());
    assert_eq!(bench.count("SELECT count(*) FROM view.deliveries").await, 0);
    let gap = "SELECT count(*) FROM retention_gaps WHERE log_partition = 0 AND log_epoch = 1
                      AND accepted_at < (SELECT floor FROM retention_floor)
                      AND log_offset + 1 = (SELECT min(log_offset) FROM view.events)";
    assert_eq!(bench.count(gap).await, 1, "the dropped event is a retention gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_from_below_the_floor_are_no_difference() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let (spanning, over, endpoint) = (event(org), event(org), EndpointId::generate());
    for event in [&spanning, &over] {
        bench.event(event).await;
    }
    bench.attempt(&attempt(org, spanning.event_id, endpoint, 1, DeliveryOutcome::Retrying)).await;
    let last = bench
        .attempt(&attempt(org, over.event_id, endpoint, 1, DeliveryOutcome::Delivered))
        .await
        .timestamp_ms
        .unwrap();
    while bench.event(&event(org)).await.timestamp_ms.unwrap() <= last {}
    bench.attempt(&attempt(org, spanning.event_id, endpoint, 2, DeliveryOutcome::Delivered)).await;
    bench.all_applied().await;
    projecting.stop().await;
    sqlx::query("UPDATE retention_floor SET floor = $1")
        .bind(from_millis(last + 1))
        .execute(&bench.pool)
        .await
        .unwrap();
    // As when their time partition was dropped, and the second delivery is not swept yet.
    sqlx::query("DELETE FROM view.delivery_attempts WHERE appended_at < (SELECT floor FROM retention_floor)")
        .execute(&bench.pool)
        .await
        .unwrap();
    let begun = "SELECT (extract(epoch FROM min(created_at)) * 1000)::bigint FROM view.deliveries";
    let before = bench.count(begun).await;
    assert_eq!(bench.count("SELECT count(*) FROM view.deliveries").await, 2);
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
    assert_eq!(bench.count("SELECT count(*) FROM view.deliveries").await, 1);
    assert_eq!(bench.count(begun).await, before, "the start time is kept");
}
