//! What old clients find on every mount: acknowledgements, health, correlation ids, idempotency, HEAD and OPTIONS.

use serde_json::{Value, json};

use super::wire::{Library, OldClient};
use super::{MOUNTS, Roles, assert_accepted, assert_response_headers, assert_utc_millis, ids_of, page_of};

async fn sends(client: &OldClient, n: usize) -> String {
    let body = format!(r#"{{"event_type":"order.created","payload":{{"n":{n}}}}}"#);
    let sender = client.with_header("Content-Type: application/json");
    assert_accepted(&sender.send("POST /v1/events", &body).await.expect(201), "order.created")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_ack_answers_on_every_mount() {
    let roles = Roles::start().await;
    let mut acknowledged = 0;
    for (library, key_header) in [(Library::Curl, "X-API-Key: "), (Library::Requests, "Authorization: Bearer ")] {
        let client = roles.client(library, key_header);
        for mount in MOUNTS {
            for form in ["DELETE /events/{id}", "DELETE /inbox/{id}"] {
                let id = sends(&client, acknowledged).await;
                let request = form.replace("{id}", &id).replacen(" /", &format!(" {mount}/"), 1);
                for _ in 0..2 {
                    client.send(&request, "").await.expect(204);
                }
                acknowledged += 1;
            }
            for form in ["POST /events/{id}/ack", "POST /inbox/ack/{id}", "POST /ack/{id}"] {
                let id = sends(&client, acknowledged).await;
                let request = form.replace("{id}", &id).replacen(" /", &format!(" {mount}/"), 1);
                let first = client.send(&request, "").await.expect(200).json();
                assert_utc_millis(&first["acknowledged_at"]);
                let expected = json!({"id": id, "event_id": id, "status": "acknowledged", "success": true,
                                      "acknowledged_at": first["acknowledged_at"]});
                assert_eq!(first, expected);
                assert_eq!(client.send(&request, "").await.expect(200).json(), first, "{request}: the same again");
                acknowledged += 1;
            }
            acknowledged += acknowledges_many(&client, mount, acknowledged).await;
        }
    }
    let left = sends(&roles.client(Library::Curl, "X-API-Key: "), acknowledged).await;
    for mount in MOUNTS {
        let client = roles.client(Library::Curl, "X-API-Key: ");
        let page = page_of(&client, &format!("{mount}/inbox"), 1).await.json();
        assert_eq!(ids_of(&page), [left.as_str()], "the other {acknowledged} left the inbox");
    }
}

/// Acknowledges two events at once, and one that does not exist; how many.
async fn acknowledges_many(client: &OldClient, mount: &str, n: usize) -> usize {
    let (one, two, unknown) = (sends(client, n).await, sends(client, n + 1).await, uuid::Uuid::now_v7());
    let body = format!(r#"{{"event_ids": ["{one}", "{two}", "{unknown}"]}}"#);
    let sender = client.with_header("Content-Type: application/json");
    let answer = sender.send(&format!("POST {mount}/inbox/ack"), &body).await.expect(200).json();
    let result = |id: &str, status: &str| json!({"event_id": id, "status": status});
    let results =
        [result(&one, "acknowledged"), result(&two, "acknowledged"), result(&unknown.to_string(), "not_found")];
    assert_eq!(answer, json!({"acknowledged": 2, "failed": 1, "results": results}));
    2
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_healthy_on_every_mount() {
    let roles = Roles::start().await;
    let client = roles.anonymous(Library::Curl);
    for path in ["/", "/status", "/v1/status", "/api/status"] {
        let answer = client.send(&format!("GET {path}"), "").await.expect(200);
        assert_response_headers(&answer);
        let status = answer.json();
        assert_eq!((status["status"].as_str(), status["name"].as_str()), (Some("healthy"), Some("triggers")), "{path}");
        assert!(status["version"].is_string() && status["uptime_seconds"].is_u64(), "{path}: {status}");
    }
    for mount in MOUNTS {
        for path in ["/health", "/health/detailed", "/health/ready"] {
            let answer = client.send(&format!("GET {mount}{path}"), "").await.expect(200);
            assert_response_headers(&answer);
            let health = answer.json();
            assert_eq!(health["status"], "healthy", "{mount}{path}: {health}");
            for component in ["kafka", "postgres"] {
                assert_eq!(health["checks"][component], json!({"status": "healthy"}), "{mount}{path}: {health}");
            }
        }
        let live = client.send(&format!("GET {mount}/health/live"), "").await.expect(200).json();
        assert_eq!(live["status"], "healthy");
    }
    // These clients send their key with every request.
    let client = roles.client(Library::Requests, "X-API-Key: ").with_header("Content-Type: application/json");
    assert_eq!(client.send("GET /v1/health", "").await.expect(200).json()["status"], "healthy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_and_options_answer_on_every_mount() {
    let roles = Roles::start().await;
    let client = roles.client(Library::Curl, "X-API-Key: ");
    let id = sends(&client, 0).await;
    for mount in MOUNTS {
        let event = format!("{mount}/events/{id}");
        for path in [&event, &format!("{mount}/inbox"), &format!("{mount}/health"), &format!("{mount}/status")] {
            let get = client.send(&format!("GET {path}"), "").await.expect(200);
            let head = client.send(&format!("HEAD {path}"), "").await.expect(200);
            assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
            assert_response_headers(&head);
        }
        for (path, methods) in [
            (format!("{mount}/events"), ["POST"].as_slice()),
            (event, ["DELETE", "GET", "HEAD"].as_slice()),
            (format!("{mount}/inbox"), ["GET", "HEAD"].as_slice()),
            (format!("{mount}/ack/{id}"), ["POST"].as_slice()),
            (format!("{mount}/keys"), ["GET", "HEAD", "POST"].as_slice()),
            (format!("{mount}/health"), ["GET", "HEAD"].as_slice()),
        ] {
            let options = client.send(&format!("OPTIONS {path}"), "").await.expect(204);
            let mut allowed: Vec<&str> = options.header("allow").split(',').map(str::trim).collect();
            allowed.sort_unstable();
            assert_eq!(allowed, methods, "OPTIONS {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_correlation_id_is_returned_on_every_mount() {
    let roles = Roles::start().await;
    let client =
        roles.client(Library::Axios, "X-API-Key: ").with_header("Content-Type: application/json; charset=utf-8");
    for mount in MOUNTS {
        for name in ["X-Correlation-Id", "X-Correlation-ID", "x-request-id"] {
            let id = format!("order-7.{}", mount.trim_start_matches('/'));
            let client = client.with_header(&format!("{name}: {id}"));
            let accepted = client.send(&format!("POST {mount}/events"), r#"{"type":"a","data":1}"#).await;
            assert_accepted(&accepted, "a");
            let refused = client.send(&format!("POST {mount}/events"), r#"{"type":"a"}"#).await;
            assert_eq!(refused.json()["request_id"], id, "{}", refused.text);
            for answer in [accepted, refused] {
                assert_eq!((answer.header("x-correlation-id"), answer.header("x-request-id")), (&*id, &*id));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_is_known_on_every_mount() {
    let roles = Roles::start().await;
    let client = roles.client(Library::Requests, "X-API-Key: ").with_header("Content-Type: application/json");
    let body = r#"{"event_type": "order.created", "payload": {"id": 7}}"#;
    for first in MOUNTS {
        // Some old clients send the key with an X.
        let old = client.with_header(&format!("X-Idempotency-Key: order-7{first}"));
        let client = client.with_header(&format!("Idempotency-Key: order-7{first}"));
        let accepted = client.send(&format!("POST {first}/events"), body).await;
        assert_eq!(accepted.header("idempotency-replayed"), "");
        let id = assert_accepted(&accepted, "order.created");
        for mount in MOUNTS {
            let again = old.send(&format!("POST {mount}/events"), body).await;
            assert_eq!(again.status, if mount == "/api" { 202 } else { 201 }, "the mount's own code");
            assert_eq!(again.header("idempotency-replayed"), "true");
            assert_eq!(assert_accepted(&again, "order.created"), id);
            let other = client.send(&format!("POST {mount}/events"), r#"{"event_type": "b", "payload": 1}"#).await;
            assert_eq!(other.expect(422).json()["error_code"], "idempotency_key_reused");
        }
    }
    let page = page_of(&client, "/inbox", 3).await.json();
    assert_eq!(ids_of(&page).len(), 3, "each event once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_members_of_an_event_are_ignored() {
    let roles = Roles::start().await;
    let client = roles.client(Library::Requests, "Authorization: Bearer ");
    let sender = client.with_header("Content-Type: application/json");
    let mut ids = Vec::new();
    for mount in MOUNTS {
        let body = r#"{"id": "mine", "organization_id": "org", "event_type": "a", "version": 2, "payload": {"id": 7},
                       "tags": ["x"], "user": {"type": "b", "data": null}, "status": "failed", "priority": null}"#;
        ids.push(assert_accepted(&sender.send(&format!("POST {mount}/events"), body).await, "a"));
    }
    let page = page_of(&client, "/inbox", 3).await.json();
    assert_eq!(ids_of(&page), ids);
    let shown = |event: &Value| (event["payload"].clone(), event["status"].clone(), event["metadata"].clone());
    for event in page["events"].as_array().unwrap() {
        assert_eq!(shown(event), (json!({"id": 7}), json!("pending"), json!({})));
    }
}
