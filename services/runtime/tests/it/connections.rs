//! The settings of the product's connections.

use runtime::postgres::{self, PostgresConfig};
use sqlx::Row;
use testkit::setup;

#[tokio::test]
async fn statements_are_bounded_and_not_compiled() {
    let (database, _other) = setup::database().await;
    let pool = postgres::connect(&PostgresConfig::new(&database.url)).unwrap();
    for (setting, expected) in
        [("jit", "off"), ("statement_timeout", "30s"), ("idle_in_transaction_session_timeout", "10s")]
    {
        let row = sqlx::query("SELECT current_setting($1)").bind(setting).fetch_one(&pool).await.unwrap();
        assert_eq!(row.get::<String, _>(0), expected, "{setting}");
    }
}
