//! Errors as old clients read them: by the status, by a text, or by one of the members `error`, `message`, `detail`.

use serde_json::json;

use super::wire::Library;
use super::{MOUNTS, Roles, assert_accepted, error_text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_says_duplicate_event_detected() {
    let roles = Roles::start().await;
    let client = roles.client(Library::Curl, "X-API-Key: ").with_header("Content-Type: application/json");
    for mount in MOUNTS {
        let body = format!(
            r#"{{"type": "user.created", "dedup_id": "duplicate-test-123{mount}", "payload": {{"test": "data"}}}}"#
        );
        let accepted = client.send(&format!("POST {mount}/events"), &body).await;
        assert_eq!(accepted.status, if mount == "/api" { 202 } else { 201 });
        let id = assert_accepted(&accepted, "user.created");
        for again in MOUNTS {
            let refused = client.send(&format!("POST {again}/events"), &body).await.expect(409);
            assert!(error_text(&refused).starts_with("Duplicate event detected"), "{}", refused.text);
            let problem = refused.json();
            assert_eq!((&problem["error_code"], &problem["event_id"]), (&json!("duplicate_event"), &json!(id)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_101st_request_of_a_free_key_says_rate_limit_exceeded() {
    let roles = Roles::start().await;
    let curl = roles.anonymous(Library::Curl).with_header("Content-Type: application/json");
    let made = curl.send("POST /api/keys/generate", r#"{"organization_name": "Rate", "tier": "free"}"#).await;
    let key = made.expect(201).json()["api_key"].as_str().unwrap().to_owned();
    let client = curl.with_header(&format!("X-API-Key: {key}"));
    let mut refused = Vec::new();
    for n in 1..=105 {
        let body = format!(r#"{{"type": "test.event", "dedup_id": "rate-test-{n}", "payload": {{"index": {n}}}}}"#);
        let answer = client.send("POST /api/events", &body).await;
        assert_eq!(answer.header("x-ratelimit-limit"), "100");
        if answer.status != 202 {
            refused.push(answer.expect(429));
        }
    }
    assert!(refused.len() >= 5, "{} of 105 requests were refused", refused.len());
    for answer in refused {
        assert!(error_text(&answer).starts_with("Rate limit exceeded"), "{}", answer.text);
        assert_eq!(answer.header("x-ratelimit-remaining"), "0");
        assert!(answer.header("retry-after").parse::<u32>().unwrap() >= 1);
        assert!(answer.header("x-ratelimit-reset").parse::<u32>().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_request_is_400_and_on_api_422() {
    let roles = Roles::start().await;
    let client = roles.client(Library::Axios, "X-API-Key: ").with_header("Content-Type: application/json");
    for mount in MOUNTS {
        let invalid = if mount == "/api" { 422 } else { 400 };
        for (request, body, field) in [
            ("POST /events", r#"{"payload": {"a": 1}}"#, Some("event_type")),
            ("POST /events", r#"{"event_type": "a"}"#, Some("payload")),
            ("POST /events", r#"{"event_type": "", "payload": {}}"#, Some("event_type")),
            ("POST /events", r#"{"type": "a", "event_type": "b", "payload": {}}"#, Some("event_type")),
            ("POST /events", r#"{"type": "a", "data": {}"#, None),
            ("POST /events", "", None),
            ("GET /inbox?limit=0", "", Some("limit")),
            ("GET /inbox?limit=1001", "", Some("limit")),
            ("GET /inbox?cursor=eyJpZCI6MX0", "", Some("cursor")),
            ("GET /inbox?offset=0", "", Some("offset")),
            ("GET /inbox?status=dead_letter", "", Some("status")),
            ("GET /events/0192f0c1-2345-7abc-8def-0123456789ab?timestamp=1", "", Some("timestamp")),
            ("DELETE /events/0192f0c1-2345-7abc-8def-0123456789ab?timestamp=1", "", Some("timestamp")),
            ("POST /inbox/ack", r#"{"event_ids": []}"#, Some("event_ids")),
        ] {
            let answer = client.send(&request.replacen(" /", &format!(" {mount}/"), 1), body).await;
            assert_eq!(answer.status, invalid, "{mount} {request} {body}: {}", answer.text);
            error_text(&answer);
            if let Some(field) = field {
                assert_eq!(answer.json()["details"][0]["field"], field, "{request} {body}: {}", answer.text);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_errors_are_the_same_on_every_mount() {
    let roles = Roles::start().await;
    let anonymous = roles.anonymous(Library::Httpx);
    let client = roles.client(Library::Httpx, "x-api-key: ");
    let unknown = uuid::Uuid::now_v7();
    let form = client.with_header("content-type: application/x-www-form-urlencoded");
    for mount in MOUNTS {
        for request in ["POST /events", "GET /inbox", "GET /keys", "POST /inbox/ack"] {
            let request = request.replacen(" /", &format!(" {mount}/"), 1);
            error_text(&anonymous.send(&request, "").await.expect(401));
            let wrong = anonymous.with_header("authorization: Bearer zap_live_wrong");
            let refused = wrong.send(&request, "").await.expect(401);
            assert!(error_text(&refused).starts_with("Invalid API key"), "{}", refused.text);
            assert_eq!(refused.header("www-authenticate"), "Bearer");
        }
        for id in [unknown.to_string(), "evt_550e8400e29b41d4".to_owned()] {
            for request in [format!("GET {mount}/events/{id}"), format!("POST {mount}/ack/{id}")] {
                error_text(&client.send(&request, "").await.expect(404));
            }
        }
        for path in ["/nothing", "/events/inbox"] {
            error_text(&client.send(&format!("GET {mount}{path}"), "").await.expect(404));
        }
        let refused = client.send(&format!("PUT {mount}/events"), "").await.expect(405);
        error_text(&refused);
        assert_eq!(refused.header("allow"), "POST");
        error_text(&form.send(&format!("POST {mount}/events"), r#"{"type": "a", "data": 1}"#).await.expect(415));
        let large = format!(r#"{{"type": "a", "data": "{}"}}"#, "x".repeat(256 * 1024));
        error_text(&client.send(&format!("POST {mount}/events"), &large).await.expect(413));
    }
}
