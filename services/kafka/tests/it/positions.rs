//! The positions poller, on a real PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kafka::fence::{self, PositionsPoller};
use runtime::postgres::{self, PostgresConfig};
use sqlx::postgres::PgPool;
use tokio::time::Instant;

use crate::database;

const TOPIC: &str = "events";
const LONG: Duration = Duration::from_secs(10);

/// How often `consumer_positions` was read, by whatever plan. `polling` is the pool of the poller, which has one
/// connection: its counts are published first.
async fn reads(polling: &PgPool, pool: &PgPool) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(polling).await.unwrap();
    sqlx::query_scalar(
        "SELECT (seq_scan + idx_scan)::bigint FROM pg_stat_user_tables WHERE relname = 'consumer_positions'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn stopped(poller: &PositionsPoller) {
    devstack::testing::eventually(LONG, "nobody polls", async || (!poller.is_polling()).then_some(())).await;
}

#[tokio::test]
async fn one_poller_reads_for_all_who_wait_and_stops_after_them() {
    let (database, pool) = database().await;
    let config = PostgresConfig { max_connections: 1, ..PostgresConfig::new(&database.url) };
    let polling = postgres::connect(&config).unwrap();
    // A connection of `pool` would publish the scans of the claim later, among those of the poller.
    fence::claim(&polling, "test", &Arc::from(TOPIC), None, &[(0, 5)]).await.unwrap();
    let poller = PositionsPoller::new(polling.clone(), "test");
    assert!(!poller.is_polling());
    let before = reads(&polling, &pool).await;
    let start = Instant::now();
    let wait = |_| poller.wait_for_offset(1, TOPIC, 0, 6, Duration::from_millis(500));
    assert!(join_all((0..100).map(wait)).await.into_iter().all(|reached| !reached));
    stopped(&poller).await;
    let took = i64::try_from(start.elapsed().as_millis()).unwrap();
    // The last read may be published late; a poller that went on would read every few milliseconds.
    let after = devstack::testing::eventually(LONG, "nobody waits, nobody reads", async || {
        let first = reads(&polling, &pool).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        (reads(&polling, &pool).await == first).then_some(first)
    })
    .await;
    let count = after - before;
    assert!(count > 1 && count <= took / 5 + 1, "{count} reads in {took} ms for 100 who waited");

    assert!(poller.wait_for_offset(1, TOPIC, 0, 5, LONG).await, "it starts again");
    stopped(&poller).await;
    drop((polling, pool, database));
}

#[tokio::test]
async fn newer_positions_are_read_once_for_each_who_asks() {
    let (database, pool) = database().await;
    fence::claim(&pool, "test", &Arc::from(TOPIC), None, &[(0, 5)]).await.unwrap();
    let poller = PositionsPoller::new(pool.clone(), "test");
    let first = poller.newer_than(None, LONG).await.unwrap();
    assert_eq!(first.of_topic(TOPIC).map(|(partition, at)| (partition, at.next_offset)).collect::<Vec<_>>(), [(0, 5)]);
    stopped(&poller).await;
    let again = poller.newer_than(None, LONG).await.unwrap();
    assert!(again.read_at() == first.read_at(), "positions that are new enough are not read again");
    stopped(&poller).await;
    let second = poller.newer_than(first.read_at(), LONG).await.unwrap();
    assert!(second.read_at() > first.read_at());
    drop((pool, database));
}

#[tokio::test]
async fn who_waits_is_answered_although_postgres_is_not() {
    // Nothing listens there.
    let pool = postgres::connect(&PostgresConfig::new("postgres://nobody@127.0.0.1:1/none")).unwrap();
    let poller = PositionsPoller::new(pool, "test");
    let start = Instant::now();
    assert!(!poller.wait_for_offset(1, TOPIC, 0, 5, Duration::from_millis(200)).await);
    assert!(poller.newer_than(None, Duration::from_millis(200)).await.is_none());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    stopped(&poller).await;
}

#[tokio::test]
async fn a_read_that_hangs_is_given_up_with_its_connection() {
    let (database, pool) = database().await;
    fence::claim(&pool, "test", &Arc::from(TOPIC), None, &[(0, 5)]).await.unwrap();
    let config = PostgresConfig { max_connections: 1, ..PostgresConfig::new(&database.url) };
    let polling = postgres::connect(&config).unwrap();
    let poller = PositionsPoller::new(polling.clone(), "test");
    let mut blocker = postgres::begin(&pool).await.unwrap();
    sqlx::query("LOCK TABLE consumer_positions IN ACCESS EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();
    assert!(!poller.wait_for_offset(1, TOPIC, 0, 5, Duration::from_millis(100)).await);
    stopped(&poller).await;
    let answer: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&polling).await.unwrap();
    assert_eq!(answer, 1, "the pool has its one connection to give, while the read still hangs in the server");
    blocker.rollback().await.unwrap();
    assert!(poller.wait_for_offset(1, TOPIC, 0, 5, LONG).await, "it reads again");
    stopped(&poller).await;
    drop((polling, pool, database));
}
