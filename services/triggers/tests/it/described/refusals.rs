//! A request without the right to its route is refused before its body has arrived, on every route with a body.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Document, Ids, Operation, admin_of};
use crate::api::Api;
use crate::system::System;

/// Far shorter than the time for a body, 30 s: who waits for the body fails.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Sends only the head of a request with a body, and returns the status of the answer.
async fn status_of_head(api: &Api, operation: &Operation, path: &str, key: Option<&str>) -> u16 {
    let address = api.base_url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let credentials = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    let head = format!(
        "{} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\
         {credentials}\r\n",
        operation.method
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = timeout(AT_ONCE, stream.read_exact(&mut answer)).await;
    let answered = read.unwrap_or_else(|_| panic!("{} waits for the body", operation.name()));
    answered.unwrap();
    String::from_utf8_lossy(&answer[9..]).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_the_right_are_refused_at_their_head() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let document = Document::of(&api).await;
    let (producer, consumer) = (api.with_new_key("produce").await, api.with_new_key("consume").await);
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
        let unknown = status_of_head(&api, operation, &format!("{path}?unknown=1"), None).await;
        assert_eq!(unknown, expected, "{} without a key learns nothing of its parameters", operation.name());
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
    assert_eq!(signup.status, 403, "sign-up is off, whatever the query is: {}", signup.text);
}
