//! One writer per partition, although instances join, leave, and stall.

use devstack::testing::eventually;
use materializer::projector::CONSUMER;
use tokio_util::sync::CancellationToken;

use super::harness::{Bench, PATIENCE, event};

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_come_and_go_write_each_event_exactly_once() {
    let bench = Bench::start().await;
    bench.watch_writes().await;
    let mut orgs = Vec::new();
    for number in 0..12 {
        orgs.push(bench.organization(number % 3).await);
    }
    let first = bench.project();
    let flow = bench.flowing(&orgs, 5000);
    bench.shown(500).await;
    let second = bench.project();
    second.is_ready(true).await;
    bench.shown(1500).await;
    first.stop().await;
    bench.shown(2500).await;
    let third = bench.project();
    third.is_ready(true).await;
    let ids = flow.await.unwrap();
    bench.all_applied().await;
    bench.assert_each_once(ids).await;
    second.stop().await;
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_instance_writes_nothing_and_claims_again() {
    let bench = Bench::start().await;
    bench.watch_writes().await;
    let (lost, kept) = (bench.organization(0).await, bench.organization(1).await);
    let projecting = bench.project();
    let flow = bench.flowing(&[lost, kept], 4000);
    bench.shown(500).await;
    let topic = bench.topics().events.clone();
    // As another instance does when it claims.
    let (stolen_epoch, stolen_at): (i64, i64) = sqlx::query_as(
        "UPDATE consumer_positions SET epoch = epoch + 1 WHERE consumer = $1 AND topic = $2 AND partition = 0
         RETURNING epoch, next_offset",
    )
    .bind(CONSUMER)
    .bind(&topic)
    .fetch_one(&bench.pool)
    .await
    .unwrap();
    let mut ids = flow.await.unwrap();
    // At least one record comes after the foreign claim.
    ids.extend(bench.flow(&[lost, kept], 100).await);
    bench.all_applied().await;
    bench.assert_each_once(ids).await;
    let moves: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT epoch, from_offset, to_offset FROM public.moved WHERE topic = $1 AND partition = 0 ORDER BY at",
    )
    .bind(&topic)
    .fetch_all(&bench.pool)
    .await
    .unwrap();
    assert!(
        moves.iter().all(|(epoch, ..)| *epoch != stolen_epoch),
        "every write was made under a claim of its writer: {moves:?}"
    );
    assert!(
        moves.iter().all(|(epoch, _, to)| *epoch > stolen_epoch || *to <= stolen_at),
        "nothing was written after the theft: {moves:?}"
    );
    assert!(
        moves.iter().any(|(epoch, from, _)| *epoch > stolen_epoch && *from == stolen_at),
        "it went on where it was lost: {moves:?}"
    );
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_partition_of_acks_is_claimed_again() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let ids = bench.flow(&[org], 3).await;
    bench.ack(org, ids[0]).await;
    bench.all_applied().await;
    sqlx::query("UPDATE consumer_positions SET epoch = epoch + 1 WHERE topic = $1")
        .bind(&bench.topics().acks)
        .execute(&bench.pool)
        .await
        .unwrap();
    for id in &ids {
        bench.ack(org, *id).await;
    }
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events WHERE acknowledged_at IS NULL").await, 0);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_fenced_in_one_partition_is_written_in_the_others() {
    let bench = Bench::start().await;
    let (lost, kept) = (bench.organization(0).await, bench.organization(1).await);
    let projecting = bench.project();
    bench.flow(&[lost, kept], 2).await;
    bench.all_applied().await;
    let topic = bench.topics().events.clone();
    // Both rows are locked meanwhile, so that new records collect behind a waiting flush and become one batch.
    let mut thief = runtime::postgres::begin(&bench.pool).await.unwrap();
    let lock = "SELECT FROM consumer_positions WHERE topic = $1 FOR UPDATE";
    sqlx::query(lock).bind(&topic).execute(&mut *thief).await.unwrap();
    let steal = "UPDATE consumer_positions SET epoch = epoch + 1 WHERE topic = $1 AND partition = 0 RETURNING epoch";
    let stolen: i64 = sqlx::query_scalar(steal).bind(&topic).fetch_one(&mut *thief).await.unwrap();
    bench.flow(&[lost, kept], 200).await;
    thief.commit().await.unwrap();
    // Both checks in one statement: the other partition is written before the fenced one is claimed again.
    let query = "SELECT max(epoch), (SELECT count(*) FROM view.events WHERE log_partition = 1) FROM consumer_positions
                WHERE topic = $1 AND partition = 0";
    let epoch = eventually(PATIENCE, "the other partition is written", || async {
        let (epoch, others): (i64, i64) = sqlx::query_as(query).bind(&topic).fetch_one(&bench.pool).await.unwrap();
        (others == 101).then_some(epoch)
    })
    .await;
    assert_eq!(epoch, stolen, "the other partition did not wait for the fenced one");
    bench.all_applied().await;
    assert_eq!(bench.in_log_order().await.len(), 202);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_outside_of_the_log_stops_only_its_partition() {
    let bench = Bench::start().await;
    let (stopped, other) = (bench.organization(0).await, bench.organization(1).await);
    let first = bench.project();
    bench.flow(&[stopped, other], 2).await;
    bench.all_applied().await;
    first.stop().await;
    let misplace = "UPDATE consumer_positions SET next_offset = 1000 WHERE topic = $1 AND partition = 0";
    sqlx::query(misplace).bind(&bench.topics().events).execute(&bench.pool).await.unwrap();
    bench.flow(&[stopped], 1).await;
    let projecting = bench.project();
    // Readiness must fail all the time, also between two transactions.
    let (health, done) = (projecting.health.clone(), CancellationToken::new());
    let watched = done.clone();
    let watching = tokio::task::spawn_blocking(move || {
        std::iter::repeat_with(|| health.is_ready()).take_while(|_| !watched.is_cancelled()).any(|ready| ready)
    });
    for shown in 3..100 {
        bench.event(&event(other)).await;
        bench.shown(shown).await;
    }
    done.cancel();
    assert!(!watching.await.unwrap(), "writes of other partitions do not make the process ready");
    assert_eq!(bench.position(&bench.topics().events, 0).await, Some(1000));
    projecting.stop().await;
}
