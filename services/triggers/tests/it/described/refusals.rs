//! A request without the right to its route is refused before its body has arrived, on every route with a body.

use serde_json::json;
use testkit::api::status_of_headers_only;

use super::{Document, Ids, Operation, admin_of};
use crate::api::Api;
use crate::system::System;

/// Sends only the head of a request with a body, and returns the status of the answer.
async fn status_of_head(api: &Api, operation: &Operation, path: &str, key: Option<&str>) -> u16 {
    let credentials = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let headers = format!("Content-Type: application/json\r\n{credentials}");
    status_of_headers_only(&api.base_url, operation.method.as_str(), path, &headers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_the_right_are_refused_at_their_head() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let document = Document::of(&api).await;
    let (producer, consumer) = (api.with_new_key("produce").await, api.with_new_key("consume").await);
    let wanted = json!({"name": "restricted", "role": "manage", "event_types": ["a"]});
    let restricted = api.post("/v1/keys", &wanted).await.expect(201).json();
    let restricted = api.with_key(restricted["key"].as_str().unwrap());
    let nil = || "00000000-0000-7000-8000-000000000000".to_owned();
    let ids = Ids { organization: nil(), event: nil(), endpoint: nil(), key: nil() };
    let mut tested = 0;
    for operation in document.operations().iter().filter(|operation| operation.has_body()) {
        let path = operation.path_with(&ids);
        let without_key = status_of_head(&api, operation, &path, None).await;
        let (expected, weak) = match operation.right() {
            // Sign-up, which is switched off.
            None if !operation.needs_operator() => (403, None),
            None => (401, Some((&producer, 403))),
            Some("produce") => (401, Some((&consumer, 403))),
            Some("consume" | "manage" | "admin") => (401, Some((&producer, 403))),
            Some(right) => panic!("{}: no test knows the right {right:?}", operation.name()),
        };
        assert_eq!(without_key, expected, "{} without a key", operation.name());
        if let Some((weak, expected)) = weak {
            let status = status_of_head(&api, operation, &path, Some(&weak.key)).await;
            assert_eq!(status, expected, "{} with a key that lacks the right", operation.name());
        }
        if operation.tag() == "Webhooks" {
            let status = status_of_head(&api, operation, &path, Some(&restricted.key)).await;
            assert_eq!(status, 403, "{} with a key that is restricted to event types", operation.name());
        }
        tested += 1;
    }
    assert!(tested >= 12, "routes with a body were tested: {tested}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_parameters_are_refused_after_the_key() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let document = Document::of(&api).await;
    let (admin, _) = admin_of(&api, &system.operator_token, "admin").await;
    let operator = api.with_key(&system.operator_token);
    let id = || uuid::Uuid::now_v7().to_string();
    let ids = Ids { organization: id(), event: id(), endpoint: id(), key: id() };
    for operation in document.operations().iter().filter(|one| one.right().is_some() || one.needs_operator()) {
        let (name, path) = (operation.name(), format!("{}?limt=1", operation.path_with(&ids)));
        let body = operation.body(&ids.event);
        let stranger = api.with_key("").call(&operation.method, &path, body.as_ref()).await;
        document.check(operation, &stranger);
        assert_eq!(stranger.status, 401, "{name}: {}", stranger.text);
        let known = if operation.needs_operator() { &operator } else { &admin };
        let reply = known.call(&operation.method, &path, body.as_ref()).await;
        document.check(operation, &reply);
        assert_eq!((reply.status, &reply.json()["details"][0]["field"]), (400, &"limt".into()), "{name}");
    }
    let signup = api.with_key("").call(&reqwest::Method::POST, "/v1/keys/generate?limt=1", None).await;
    assert_eq!(signup.status, 400, "a route that asks nobody for a key hides nothing: {}", signup.text);
}
