//! The migrations, and `schemas/postgres/schema.sql`, which is their result.

use std::path::Path;

use devstack::testing::dump_schema;
use runtime::postgres::{self, PostgresConfig};

use crate::database;

/// Time partitions, whose names depend on the date, and the table of sqlx.
const EXCLUDED: [&str; 3] = ["view.events_*", "view.delivery_attempts_*", "public._sqlx_migrations"];

const HEADER: &str = "\
-- The schema as it is now: the sum of the migrations beside this file, whose comments say what each column means.
-- Written by `make schema`; a test compares both. Not run by the product.

-- Functions come before the tables that they read.
SET check_function_bodies = false;

";

#[tokio::test]
async fn migrations_and_schema_sql_give_the_same_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/postgres/schema.sql");
    let (migrated, _pool) = database().await;
    let dump = dump_schema(&migrated.url, &EXCLUDED);
    if std::env::var_os("WRITE_SCHEMA").is_some() {
        std::fs::write(&path, format!("{HEADER}{dump}")).unwrap();
    }
    let loaded = devstack::testing::shared().await.database().await;
    let pool = postgres::connect(&PostgresConfig::new(&loaded.url)).unwrap();
    let statements = std::fs::read_to_string(&path).unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&pool).await.unwrap();
    let from_file = dump_schema(&loaded.url, &EXCLUDED);
    assert!(dump == from_file, "schema.sql differs from the result of the migrations; run: make schema");
}

#[tokio::test]
async fn a_schema_from_before_the_first_release_is_refused() {
    let database = devstack::testing::shared().await.database().await;
    let pool = postgres::connect(&PostgresConfig::new(&database.url)).unwrap();
    let earlier = "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
                       installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL,
                       checksum bytea NOT NULL, execution_time bigint NOT NULL);
                   INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                   VALUES (1, 'positions', true, '', 0), (5, 'contracts', true, '', 0), (14, 'contests', true, '', 0)";
    sqlx::raw_sql(earlier).execute(&pool).await.unwrap();
    let refused = postgres::migrate(&pool).await.unwrap_err().to_string();
    assert!(refused.contains("before the first release") && refused.contains("--data-dir"), "{refused}");
}
