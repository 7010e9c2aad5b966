//! Integration tests of the plumbing, on a real Kafka and a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod consumer;
mod decoders;
mod fence;
mod http;
mod leaderless;
mod lifecycle;
mod log_reader;
mod native;
mod positions;
mod producer;
mod schema;
mod stall;
mod topics;

use devstack::testing::TestDatabase;
use platform::postgres::{self, PostgresConfig};
use sqlx::postgres::PgPool;

/// A fresh, migrated database; keep it until the pool is dropped.
async fn database() -> (TestDatabase, PgPool) {
    let database = devstack::testing::shared().await.database().await;
    let pool = postgres::connect(&PostgresConfig::new(&database.url)).unwrap();
    postgres::migrate(&pool).await.unwrap();
    (database, pool)
}
