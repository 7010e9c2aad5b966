//! Transactions whose start is cancelled.

use std::pin::pin;
use std::task::Poll;

use devstack::testing::TestDatabase;
use runtime::postgres::{self, PostgresConfig};
use sqlx::postgres::PgPool;
use testkit::setup;

/// A start waits at most so often: for a place of the pool, for the check of the connection, for its own answer.
const WAITS: usize = 8;

/// Polls a future until it has waited so many times, and drops it then.
async fn cancel_at(wait: usize, future: impl Future) {
    let mut future = pin!(future);
    let mut waits = 0;
    std::future::poll_fn(|context| {
        if waits == wait || future.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        waits += 1;
        if waits == wait { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Two pools of one database. The first has one connection: who comes next gets it.
async fn pools() -> (TestDatabase, PgPool, PgPool) {
    let (database, other) = setup::database().await;
    let pool = postgres::connect(&PostgresConfig { max_connections: 1, ..PostgresConfig::new(&database.url) }).unwrap();
    sqlx::query("SELECT").execute(&pool).await.unwrap();
    (database, pool, other)
}

/// Writes a row in one pool. Returns whether the other one sees it.
async fn is_seen(pool: &PgPool, other: &PgPool, name: &str) -> bool {
    // Meanwhile the connection returns to its pool, as it is; its next user finds it so.
    sqlx::query("SELECT pid, state, query FROM pg_stat_activity").execute(other).await.unwrap();
    let _: i32 = sqlx::query_scalar("SELECT 1").fetch_one(pool).await.unwrap();
    sqlx::query("INSERT INTO organizations (id, name) VALUES (gen_random_uuid(), $1)")
        .bind(name)
        .execute(pool)
        .await
        .unwrap();
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM organizations WHERE name = $1)")
        .bind(name)
        .fetch_one(other)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_cancelled_start_leaves_no_transaction_open() {
    let (_database, pool, other) = pools().await;
    for wait in 0..WAITS {
        cancel_at(wait, postgres::begin(&pool)).await;
        assert!(is_seen(&pool, &other, &format!("after {wait}")).await, "a write is lost after {wait} waits");
    }
}
