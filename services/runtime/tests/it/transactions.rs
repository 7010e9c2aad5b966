//! Transactions whose start is cancelled.

use std::pin::pin;
use std::task::Poll;

use runtime::postgres::{self, PostgresConfig};
use sqlx::postgres::PgPool;
use testkit::setup;

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

async fn names(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("SELECT name FROM organizations ORDER BY name").fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn a_cancelled_start_leaves_no_transaction_open() {
    let (database, other) = setup::database().await;
    // One connection: who comes next gets it.
    let pool = postgres::connect(&PostgresConfig { max_connections: 1, ..PostgresConfig::new(&database.url) }).unwrap();
    sqlx::query("SELECT").execute(&pool).await.unwrap();
    let mut expected = names(&other).await;
    for wait in 0..8 {
        cancel_at(wait, postgres::begin(&pool)).await;
        let name = format!("organization-{wait}");
        sqlx::query("INSERT INTO organizations (id, name) VALUES (gen_random_uuid(), $1)")
            .bind(&name)
            .execute(&pool)
            .await
            .unwrap();
        expected.push(name);
        assert_eq!(names(&other).await, expected, "cancelled while it waited for the {wait}th time");
    }
}
