//! Integration tests of `runtime`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod lifecycle;
mod schema;

use devstack::testing::TestDatabase;
use runtime::postgres::{self, PostgresConfig};
use sqlx::postgres::PgPool;

/// A fresh, migrated database; keep it until the pool is dropped.
async fn database() -> (TestDatabase, PgPool) {
    let database = devstack::testing::shared().await.database().await;
    let pool = postgres::connect(&PostgresConfig::new(&database.url)).unwrap();
    postgres::migrate(&pool).await.unwrap();
    (database, pool)
}
