//! The cost of a page: it reads about as many rows as it returns, at any depth and with any filter.

use runtime::postgres::PostgresConfig;
use serde_json::Value;
use time::Duration;
use time::format_description::well_known::Rfc3339;

use super::harness::{Bench, START, ids, row, text};

const EVENTS: i64 = 60_000;

/// A bench whose inbox reads over one connection, so that its counters can be flushed, and an inbox of 60,000 events of
/// which 1 in 10 is acknowledged and 20 have failed.
async fn long_inbox() -> Bench {
    let bench = Bench::start_with(|url| PostgresConfig { max_connections: 1, ..PostgresConfig::new(url) }, None).await;
    sqlx::query(
        "INSERT INTO view.events
             (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload,
                                  acknowledged_at, delivery_status)
         SELECT $1, gen_random_uuid(), 1, 3, n * 7, $2 + n * interval '1 second', 'a', '{\"n\": 1}',
                CASE WHEN n % 10 = 0 THEN now() END,
                CASE WHEN n % 3000 = 1 THEN 'failed' ELSE 'pending' END
         FROM generate_series(1, $3::bigint) n",
    )
    .bind(bench.alpha.as_uuid())
    .bind(START)
    .bind(EVENTS)
    .execute(&bench.pool)
    .await
    .unwrap();
    // Another organization, and what the planner would know after a while.
    bench.show(bench.beta, &(0..2_000).map(|offset| row(0, offset)).collect::<Vec<_>>()).await;
    sqlx::query("VACUUM ANALYZE view.events").execute(&bench.pool).await.unwrap();
    bench
}

/// Rows of `view.events` touched so far: read by scans of the table, and entries read of its indexes.
async fn touched(bench: &Bench) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(&bench.view).await.unwrap();
    sqlx::query_scalar(
        "SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables
                 WHERE relid IN (SELECT relid FROM pg_partition_tree('view.events')))::bigint
              + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes
                 WHERE relid IN (SELECT relid FROM pg_partition_tree('view.events')))::bigint",
    )
    .fetch_one(&bench.pool)
    .await
    .unwrap()
}

async fn page_and_cost(bench: &Bench, path: &str) -> (Value, i64) {
    let before = touched(bench).await;
    let page = bench.page(path).await;
    (page, touched(bench).await - before)
}

/// What a page of `rows` rows may touch: those, and a few to find the partitions, their ends and whether there is more.
fn about(rows: i64) -> i64 {
    rows + 20
}

#[tokio::test]
async fn page_reads_only_the_rows_it_returns_at_any_depth() {
    let bench = long_inbox().await;
    for order in ["asc", "desc", "asc&include_acknowledged=true", "desc&include_acknowledged=true"] {
        let mut page = bench.page(&format!("/v1/inbox?limit=1000&order={order}")).await;
        // Often enough for a prepared statement to have got its generic plan.
        while page["has_more"] == true {
            let cursor = text(&page, "next_cursor");
            let (small, cost) =
                page_and_cost(&bench, &format!("/v1/inbox?limit=50&order={order}&cursor={cursor}")).await;
            assert!(
                cost <= about(i64::try_from(ids(&small).len()).unwrap()),
                "{order}: {cost} rows were touched for 50"
            );
            page = bench.page(&format!("/v1/inbox?limit=1000&order={order}&cursor={cursor}")).await;
        }
        let resume = text(&page, "resume_cursor");
        let (last, cost) = page_and_cost(&bench, &format!("/v1/inbox?cursor={resume}")).await;
        assert!(ids(&last).is_empty() && cost <= about(0), "{order}: {cost} rows were touched for none");
    }
}

#[tokio::test]
async fn status_and_time_filters_read_only_what_they_return() {
    let bench = long_inbox().await;
    let first = bench.page("/v1/inbox?limit=1").await;
    let cursor = text(&first, "next_cursor");
    let (failed, cost) = page_and_cost(&bench, &format!("/v1/inbox?status=failed&cursor={cursor}")).await;
    assert_eq!(ids(&failed).len(), 19, "the first of the twenty lies before the cursor");
    assert!(cost <= about(19), "{cost} rows were touched for 19 failed ones");
    let (retrying, cost) = page_and_cost(&bench, &format!("/v1/inbox?status=retrying&cursor={cursor}")).await;
    assert!(ids(&retrying).is_empty() && cost <= about(0), "{cost} rows were touched for none");

    let at = |second| (START + Duration::seconds(second)).format(&Rfc3339).unwrap();
    // The clock may step back by ten minutes, here 600 events; a bisection is some twenty probes.
    let (window, cost) =
        page_and_cost(&bench, &format!("/v1/inbox?limit=50&since={}&cursor={cursor}", at(EVENTS / 2))).await;
    assert_eq!(ids(&window).len(), 50);
    assert!(cost <= about(50) + 600 + 40, "{cost} rows were touched for 50 of a window in the middle");
    let (window, cost) = page_and_cost(&bench, &format!("/v1/inbox?limit=200&until={}&cursor={cursor}", at(101))).await;
    assert_eq!(ids(&window).len(), 89, "seconds 2 to 100 but every tenth, which is acknowledged");
    assert!(cost <= about(89) + 600 + 40, "{cost} rows were touched for 89 of a window at the beginning");
}
