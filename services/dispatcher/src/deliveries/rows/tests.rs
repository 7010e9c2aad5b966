//! The cost of a page does not grow with what is there: it reads about as many rows as it returns.

use devstack::testing::TestDatabase;
use http_server::QueryParams;
use runtime::postgres::{self, PostgresConfig};
use runtime::seal::SealingKey;
use testkit::setup;

use super::*;

const DELIVERIES: i64 = 200_000;
const UNTRIED: i64 = 20_000;

/// One endpoint with 200,000 deliveries, of which 10 have failed and 40 have a rare type, and 20,000 that wait for
/// their first attempt.
struct Bench {
    _database: TestDatabase,
    pool: PgPool,
    /// One connection, so that its counters can be flushed. Its plans do not know the parameters.
    reading: PgPool,
    org: OrgId,
    endpoint: EndpointId,
}

impl Bench {
    async fn new() -> Self {
        let (database, pool) = setup::database().await;
        let single = postgres::connect(&PostgresConfig { max_connections: 1, ..PostgresConfig::new(&database.url) });
        let settings = &[("enable_sort", "off"), ("jit", "off"), ("plan_cache_mode", "force_generic_plan")];
        let reading = postgres::with_settings(&single.unwrap(), settings);
        let bench =
            Self { _database: database, pool, reading, org: OrgId::generate(), endpoint: EndpointId::generate() };
        let statements = [
            (
                "INSERT INTO view.deliveries (org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts,
                                              last_started_at, created_at, last_appended_at, rank)
                 SELECT $1, gen_random_uuid(), gen_random_uuid(), $2, CASE WHEN n % 5000 = 1 THEN 'rare' ELSE 'a' END,
                        CASE WHEN n % 20000 = 7 THEN 'failed' ELSE 'delivered' END, 1, now(),
                        now() - n * interval '1 second', now(), 2
                 FROM generate_series(1, $3::bigint) n",
                DELIVERIES,
            ),
            (
                "INSERT INTO delivery_schedule (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at,
                                                log_epoch, log_partition, log_offset, state, due_at)
                 SELECT gen_random_uuid(), $1, gen_random_uuid(), $2, CASE WHEN n % 5000 = 1 THEN 'rare' ELSE 'a' END,
                        now() - n * interval '1 second', 1, 0, n, 'pending', now()
                 FROM generate_series(1, $3::bigint) n",
                UNTRIED,
            ),
        ];
        for (statement, rows) in statements {
            let insert = sqlx::query(statement).bind(bench.org.as_uuid()).bind(bench.endpoint.as_uuid()).bind(rows);
            insert.execute(&bench.pool).await.unwrap();
        }
        sqlx::query("VACUUM ANALYZE view.deliveries, delivery_schedule").execute(&bench.pool).await.unwrap();
        bench
    }

    /// Rows that were read by scans of the two tables, and entries read of their indexes.
    async fn touched(&self) -> i64 {
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(&self.reading).await.unwrap();
        sqlx::query_scalar(
            "SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables
                     WHERE relname IN ('deliveries', 'delivery_schedule'))::bigint
                  + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes
                     WHERE relname IN ('deliveries', 'delivery_schedule'))::bigint",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// A page, and what it touched.
    async fn page(&self, query: &str) -> (Vec<DeliveryItem>, i64) {
        let params = QueryParams::of(&format!("/deliveries?{query}").parse().unwrap()).unwrap();
        let key = SealingKey::from_bytes([1; 32]);
        let request = ListRequest::parse(&params, None, (&key, self.org)).unwrap();
        let before = self.touched().await;
        let found = of_endpoint(&self.reading, self.org, self.endpoint, &request).await.unwrap();
        (found, self.touched().await - before)
    }
}

#[tokio::test]
async fn a_page_reads_a_few_rows_of_200_000() {
    let bench = Bench::new().await;
    // The rows that it returns and one more, from each of five states and of each type.
    for (query, expected, bound) in [
        ("limit=10&status=failed", 10, 20),
        ("limit=10&status=retrying", 0, 5),
        ("limit=10&status=failed&event_type=rare", 0, 5),
        ("limit=10&event_type=rare&status=delivered", 11, 15),
        ("limit=3&event_type=rare", 4, 40),
        ("limit=10&status=pending", 11, 30),
        ("limit=3&status=pending&event_type=rare", 4, 15),
        ("limit=10", 11, 80),
    ] {
        let (found, touched) = bench.page(query).await;
        assert_eq!(found.len(), expected, "{query}");
        assert!(touched <= bound, "{query}: {touched} rows were read");
    }
}
