//! What a reader is told when events went before it came: their retention was over.

use serde_json::Value;
use time::Duration;

use super::harness::{Bench, START, ids, row, text};

#[tokio::test]
async fn a_cursor_from_before_what_was_dropped_goes_on_at_the_oldest_and_says_so_once() {
    let bench = Bench::start().await;
    let later = START + Duration::days(30);
    sqlx::query("SELECT view_ensure_time_partition('view', $1, 5)").bind(later).execute(&bench.pool).await.unwrap();
    let mut kept = row(0, 11);
    kept.accepted_at = later;
    bench.show(bench.alpha, &[row(0, 1), row(0, 2), row(0, 3), kept.clone()]).await;
    let first = bench.page("/v1/inbox?limit=1").await;
    let behind = bench.page(&format!("/v1/inbox?limit=2&cursor={}", text(&first, "next_cursor"))).await;
    assert_eq!((&first["gap"], &behind["gap"]), (&Value::Bool(false), &Value::Bool(false)));
    sqlx::query("SELECT view_drop_time_partition(starts_at) FROM view.time_partitions WHERE ends_at <= $1")
        .bind(later)
        .execute(&bench.pool)
        .await
        .unwrap();

    let page = bench.page(&format!("/v1/inbox?cursor={}", text(&first, "next_cursor"))).await;
    assert_eq!(page["gap"], true);
    assert_eq!(ids(&page), [kept.id]);
    assert_eq!(page["oldest_available"], page["events"][0]["timestamp"]);
    let next = bench.page(&format!("/v1/inbox?cursor={}", text(&page, "resume_cursor"))).await;
    assert_eq!((&next["gap"], ids(&next).len()), (&Value::Bool(false), 0));

    // Who had read all of it has missed nothing, and neither has who begins now.
    let page = bench.page(&format!("/v1/inbox?cursor={}", text(&behind, "next_cursor"))).await;
    assert_eq!((&page["gap"], ids(&page).len()), (&Value::Bool(false), 1));
    for order in ["asc", "desc"] {
        let fresh = bench.page(&format!("/v1/inbox?order={order}")).await;
        assert_eq!(fresh["gap"], false, "{order}");
        let next = bench.page(&format!("/v1/inbox?cursor={}", text(&fresh, "resume_cursor"))).await;
        assert_eq!(next["gap"], false, "{order}");
    }
}
