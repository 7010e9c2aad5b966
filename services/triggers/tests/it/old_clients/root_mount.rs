//! Clients that send `event_type` and `payload` to `/events` with `Authorization: Bearer`, poll the inbox oldest first,
//! and delete each event that they have handled.

use serde_json::json;

use super::wire::{Library, OldClient};
use super::{Roles, assert_accepted, assert_inbox_event, assert_utc_millis, ids_of, page_of};

/// As json.dumps of Python writes it.
const EVENT: &str = concat!(
    r#"{"event_type": "user.signup", "#,
    r#""payload": {"user_id": "123", "email": "user@example.com", "plan": "pro"}, "source": "web-app"}"#
);

async fn sends(client: &OldClient, body: &str) -> String {
    let accepted = client.with_header("Content-Type: application/json").send("POST /events", body).await.expect(201);
    let id = assert_accepted(&accepted, "user.signup");
    assert_eq!(accepted.header("location"), format!("/v1/events/{id}"));
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bearer_client_pages_from_the_oldest_event() {
    let roles = Roles::start().await;
    let client = roles.client(Library::Requests, "Authorization: Bearer ");
    let mut ids = vec![sends(&client, EVENT).await];
    for n in 1..52 {
        ids.push(sends(&client, &format!(r#"{{"event_type": "user.signup", "payload": {{"n": {n}}}}}"#)).await);
    }

    let page = page_of(&client, "/inbox", 52).await.json();
    assert_eq!(ids_of(&page), ids[..50], "50 events, the oldest first");
    let payload = json!({"user_id": "123", "email": "user@example.com", "plan": "pro"});
    assert_inbox_event(&page["events"][0], &ids[0], "user.signup", &payload);
    assert_eq!(page["events"][0]["source"], "web-app");
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(page["has_more"], true);
    let pagination = json!({"limit": 50, "cursor": null, "next_cursor": cursor, "has_more": true,
                            "total_undelivered": 52, "total_count": 52});
    assert_eq!(page["pagination"], pagination);

    let page = client.send(&format!("GET /inbox?limit=50&cursor={cursor}"), "").await.expect(200).json();
    assert_eq!(ids_of(&page), ids[50..]);
    assert_eq!((&page["next_cursor"], &page["has_more"]), (&json!(null), &json!(false)));
    let pagination = json!({"limit": 50, "cursor": cursor, "next_cursor": null, "has_more": false,
                            "total_undelivered": null, "total_count": null});
    assert_eq!(page["pagination"], pagination);

    let page = client.send("GET /inbox?limit=2&event_type=user.signup", "").await.expect(200).json();
    assert_eq!(ids_of(&page), ids[..2]);
    let page = client.send("GET /inbox?event_type=user.deleted", "").await.expect(200).json();
    assert_eq!((ids_of(&page).len(), &page["has_more"]), (0, &json!(false)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bearer_client_reads_one_event_and_deletes_it() {
    let roles = Roles::start().await;
    let client = roles.client(Library::Httpx, "authorization: Bearer ");
    let (id, other) = (sends(&client, EVENT).await, sends(&client, EVENT).await);
    let payload = json!({"user_id": "123", "email": "user@example.com", "plan": "pro"});
    for path in [format!("/events/{id}"), format!("/inbox/{id}")] {
        let event = client.send(&format!("GET {path}"), "").await.expect(200).json();
        assert_inbox_event(&event, &id, "user.signup", &payload);
    }
    let status = client.send(&format!("GET /events/{id}/status"), "").await.expect(200).json();
    let untried = json!({"event_id": id, "status": "pending", "attempts": 0, "retry_attempts": 0,
                         "last_retry_at": null, "next_retry_at": null, "failed_at": null, "acknowledged_at": null,
                         "deliveries": []});
    assert_eq!(status, untried);

    for request in [format!("DELETE /events/{id}"), format!("DELETE /events/{id}"), format!("DELETE /inbox/{id}")] {
        let deleted = client.send(&request, "").await.expect(204);
        assert_eq!(deleted.header("content-length"), "", "no body");
    }
    let page = page_of(&client, "/inbox", 1).await.json();
    assert_eq!(ids_of(&page), [other], "a deleted event leaves the inbox");
    let event = client.send(&format!("GET /events/{id}"), "").await.expect(200).json();
    assert_utc_millis(&event["acknowledged_at"]);
    let status = client.send(&format!("GET /events/{id}/status"), "").await.expect(200).json();
    assert_eq!(status["acknowledged_at"], event["acknowledged_at"]);
}
