//! Webhooks that are events again: endpoints whose URL is that of the API itself.

use std::time::Duration;

use devstack::testing::eventually;
use serde_json::json;

use crate::deliveries::accepted;
use crate::system::System;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_endpoints_that_feed_the_api_end_after_three_hops() {
    let system = System::shared().await;
    let settings = [("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "true")];
    let (_ingest, _materializer, api) = system.inbox_roles(&settings).await;
    let dispatcher = system.role("dispatcher", &settings);
    dispatcher.ready().await;
    for _ in 0..2 {
        let endpoint = json!({
            "url": format!("{}/v1/events", api.base_url), "retry_schedule": [],
            "headers": {"authorization": format!("Bearer {}", api.key)},
        });
        api.post("/v1/endpoints", &endpoint).await.expect(201);
    }
    api.accept("ping", &json!({"n": 1})).await;
    let pool = system.database().await;
    let sql = "SELECT status, last_status_code, count(*) FROM view.deliveries GROUP BY 1, 2 ORDER BY 1";
    let expected = [("delivered".to_owned(), Some(201), 2 + 4 + 8), ("failed".to_owned(), Some(508), 16)];
    eventually(Duration::from_secs(60), "each event of three hops is refused", || async {
        let rows: Vec<(String, Option<i32>, i64)> = sqlx::query_as(sql).fetch_all(&pool).await.unwrap();
        (rows == expected).then_some(())
    })
    .await;
    assert_eq!(accepted(&system).await.len(), 1 + 2 + 4 + 8, "no event came of the refused webhooks");
}
