//! Clients that send `type` and `data` (or `payload`) to `/api/events`, are answered 202, and read the inbox from the
//! newest event.

use serde_json::json;

use super::wire::Library;
use super::{Roles, assert_accepted, assert_inbox_event, ids_of, page_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_client_sends_type_and_data_and_gets_202() {
    let roles = Roles::start().await;
    let client = roles.client(Library::Curl, "X-API-Key: ").with_header("Content-Type: application/json");
    let body = r#"{"type":"user.created","data":{"user_id":"12345","email":"test@example.com"},"dedup_id":"test-1"}"#;
    let accepted = client.send("POST /api/events", body).await.expect(202);
    let id = assert_accepted(&accepted, "user.created");
    assert_eq!(accepted.header("location"), "", "202 has no Location");
    let event = client.send(&format!("GET /api/events/{id}"), "").await.expect(200).json();
    let payload = json!({"user_id": "12345", "email": "test@example.com"});
    assert_inbox_event(&event, &id, "user.created", &payload);
    assert_eq!(event["dedup_id"], "test-1");

    // As a load generator writes it: a tab and several lines.
    let body = "{\n  \"type\": \"user.created\",\n\t\"dedup_id\": \"test-2\",\n  \"payload\": {\"index\": 1}\n}";
    let accepted = client.send("POST /api/events", body).await.expect(202);
    let second = assert_accepted(&accepted, "user.created");
    let event = client.send(&format!("GET /api/inbox/{second}"), "").await.expect(200).json();
    assert_inbox_event(&event, &second, "user.created", &json!({"index": 1}));
    let status = client.send(&format!("GET /api/events/{second}/status"), "").await.expect(200).json();
    assert_eq!((&status["event_id"], &status["status"]), (&json!(second), &json!("pending")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_client_pages_from_the_newest_event() {
    let roles = Roles::start().await;
    let client = roles.client(Library::Axios, "X-API-Key: ");
    let sender = client.with_header("Content-Type: application/json");
    let mut ids = Vec::new();
    for n in 0..102 {
        let body = format!(r#"{{"type":"benchmark.test","data":{{"index":{n}}},"dedup_id":"dedup-{n}"}}"#);
        ids.push(assert_accepted(&sender.send("POST /api/events", &body).await.expect(202), "benchmark.test"));
    }
    ids.reverse();
    let page = page_of(&client, "/api/inbox", 102).await.json();
    assert_eq!(ids_of(&page), ids[..100], "100 events, the newest first");
    assert_inbox_event(&page["events"][0], &ids[0], "benchmark.test", &json!({"index": 101}));
    let cursor = page["next_cursor"].as_str().unwrap();
    let pagination = json!({"limit": 100, "cursor": null, "next_cursor": cursor, "has_more": true,
                            "total_undelivered": 102, "total_count": 102});
    assert_eq!((&page["pagination"], &page["has_more"]), (&pagination, &json!(true)));

    let page = client.send(&format!("GET /api/inbox?limit=100&cursor={cursor}"), "").await.expect(200).json();
    assert_eq!((ids_of(&page).as_slice(), &page["next_cursor"]), (&ids[100..], &json!(null)));
    let page = client.send("GET /api/inbox?status=pending&limit=5", "").await.expect(200).json();
    assert_eq!((ids_of(&page).as_slice(), &page["has_more"]), (&ids[..5], &json!(true)));
    let page = client.send("GET /api/inbox?status=failed", "").await.expect(200).json();
    assert_eq!(ids_of(&page).len(), 0, "nothing failed");
}
