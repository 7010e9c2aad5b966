//! The cost of a page: it reads about as many rows as it returns, at any depth and with any filter.

use http::Method;
use runtime::postgres::PostgresConfig;
use serde_json::Value;
use time::Duration;
use time::format_description::well_known::Rfc3339;

use super::harness::{Bench, START, ids, row, text};

const EVENTS: i64 = 60_000;

/// A bench whose inbox reads over one connection, so that its counters can be flushed.
async fn start() -> Bench {
    Bench::start_with(|url| PostgresConfig { max_connections: 1, ..PostgresConfig::new(url) }, None).await
}

/// An inbox of 60,000 events of which 1 in 10 is acknowledged and 20 have failed. 1 in 20,000 has the type "rare", 1 in
/// 10,000 the type "seldom".
async fn long_inbox() -> Bench {
    let bench = start().await;
    sqlx::query(
        "INSERT INTO view.events
             (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload,
                                  acknowledged_at, delivery_status)
         SELECT $1, gen_random_uuid(), 1, 3, n * 7, $2 + n * interval '1 second',
                CASE WHEN n % 20000 = 7 THEN 'rare' WHEN n % 10000 = 9000 THEN 'seldom' ELSE 'a' END, '{\"n\": 1}',
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

#[tokio::test]
async fn a_type_filter_reads_only_what_it_returns() {
    let bench = long_inbox().await;
    let first = bench.page("/v1/inbox?limit=1").await;
    let cursor = text(&first, "next_cursor");
    for (filter, found) in [
        ("event_type=rare", 3),
        ("event_type=none", 0),
        ("event_type=rare&event_type=none&event_type=rare", 3),
        ("event_type=rare&event_type=seldom&include_acknowledged=true", 9),
        ("event_type=seldom", 0),
        ("event_type=seldom&include_acknowledged=true", 6),
        ("event_type=a&limit=40", 40),
        ("event_type=a&event_type=rare&limit=40", 40),
    ] {
        let (page, cost) = page_and_cost(&bench, &format!("/v1/inbox?{filter}&cursor={cursor}")).await;
        assert_eq!(ids(&page).len(), found, "{filter}");
        // Of several types, offsets are read first, and one type may have all of them.
        let found = i64::try_from(found).unwrap();
        assert!(cost <= about(2 * found), "{filter}: {cost} rows were touched for {found}");
    }
    let key = bench.restricted_key(&["rare", "seldom"]).await;
    let before = touched(&bench).await;
    let page = bench.ask(Method::GET, "/v1/inbox?limit=2", &key, "").await.json();
    let cost = touched(&bench).await - before;
    assert_eq!((ids(&page).len(), &page["pagination"]["total_undelivered"]), (2, &Value::from(3)));
    assert!(cost <= about(10), "{cost} rows were touched for two and the count of three");
}

#[tokio::test]
async fn a_page_with_all_open_events_is_not_counted_again() {
    let bench = start().await;
    let mut rows: Vec<_> = (0..40).map(|offset| row(0, offset)).collect();
    rows[7].acknowledged_at = Some(START);
    bench.show(bench.alpha, &rows).await;
    sqlx::query("VACUUM ANALYZE view.events").execute(&bench.pool).await.unwrap();
    for (query, counts) in [
        ("limit=50", false),
        ("limit=50&include_acknowledged=true", false),
        ("limit=39", false),
        ("limit=38", true),
        ("event_type=a", true),
        ("event_type=none", true),
        ("status=pending", true),
    ] {
        let (page, cost) = page_and_cost(&bench, &format!("/v1/inbox?{query}")).await;
        assert_eq!(page["pagination"]["total_undelivered"], 39, "{query}");
        let expected = i64::try_from(ids(&page).len()).unwrap() + if counts { 39 } else { 0 };
        assert!((expected..=expected + 20).contains(&cost), "{query}: {cost} rows were touched");
    }
}
