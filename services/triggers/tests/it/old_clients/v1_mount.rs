//! Clients that send `event_type`, `timestamp` and `payload` to `/v1/events` with `X-API-Key`, and acknowledge by POST.

use serde_json::json;

use super::wire::Library;
use super::{Roles, assert_accepted, assert_inbox_event, assert_utc_millis, ids_of, page_of};

/// An order as json.dumps of Python writes it, of exactly `bytes` bytes.
fn order(bytes: usize) -> String {
    let begin = concat!(
        r#"{"order_id": "order_42", "user_id": "user_7", "amount": 99.99, "currency": "USD", "#,
        r#""items": [{"sku": "ITEM-001", "quantity": 1, "price": 99.99}], "note": ""#
    );
    let end = "\"}";
    format!("{begin}{}{end}", "x".repeat(bytes - begin.len() - end.len()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_x_api_key_client_sends_500_to_800_bytes() {
    let roles = Roles::start().await;
    // This client sends its content type with every request, also with those without a body.
    let client = roles.client(Library::Requests, "X-API-Key: ").with_header("Content-Type: application/json");
    let mut ids = Vec::new();
    for bytes in [500, 650, 800] {
        let (payload, time) = (order(bytes), "2026-11-12T10:30:00.123456Z");
        assert_eq!(payload.len(), bytes);
        let body = format!(r#"{{"event_type": "order.created", "timestamp": "{time}", "payload": {payload}}}"#);
        let accepted = client.send("POST /v1/events", &body).await.expect(201);
        let id = assert_accepted(&accepted, "order.created");
        assert_eq!(accepted.header("location"), format!("/v1/events/{id}"));
        let shown = client.send(&format!("GET /v1/events/{id}"), "").await.expect(200);
        assert!(shown.text.contains(&format!("\"payload\":{payload},")), "byte for byte: {}", shown.text);
        assert_inbox_event(&shown.json(), &id, "order.created", &serde_json::from_str(&payload).unwrap());
        assert_eq!(shown.json()["occurred_at"], "2026-11-12T10:30:00.123Z", "the client's time");
        ids.push(id);
    }

    let page = page_of(&client, "/v1/inbox?limit=2", 3).await.json();
    assert_eq!(ids_of(&page), ids[..2], "the oldest first");
    assert_eq!((&page["has_more"], &page["pagination"]["limit"]), (&json!(true), &json!(2)));
    let next = page["next_cursor"].as_str().unwrap();
    let page = client.send(&format!("GET /v1/inbox?limit=2&cursor={next}"), "").await.expect(200).json();
    assert_eq!((ids_of(&page).as_slice(), &page["has_more"]), (&ids[2..], &json!(false)));

    let acknowledged = client.send(&format!("POST /v1/events/{}/ack", ids[0]), "").await.expect(200).json();
    assert_eq!((&acknowledged["event_id"], &acknowledged["status"]), (&json!(ids[0]), &json!("acknowledged")));
    assert_utc_millis(&acknowledged["acknowledged_at"]);
    client.send(&format!("DELETE /v1/events/{}", ids[1]), "").await.expect(204);
    let page = page_of(&client, "/v1/inbox", 1).await.json();
    assert_eq!((ids_of(&page).as_slice(), &page["pagination"]["limit"]), (&ids[2..], &json!(50)));
}
