//! Clients of older trigger APIs: the bytes that they send, and every member of the answers that they read.
//!
//! Each dialect has a file; `every_mount` shows what is the same on all mounts. docs/api-compatibility.md names the
//! tests.

mod api_mount;
mod errors;
mod every_mount;
mod keys;
mod root_mount;
mod v1_mount;
mod webhook;
mod wire;

use std::time::Duration;

use devstack::testing::eventually;
use serde_json::Value;

use crate::api::Api;
use crate::process::Process;
use crate::system::System;
use wire::{Answer, Library, OldClient};

/// Prefixes of the three mounts.
const MOUNTS: [&str; 3] = ["", "/v1", "/api"];
/// How long the view may take to show events on a busy machine.
const SHOWN: Duration = Duration::from_secs(30);

/// As `triggers up` has it: sign-up is open, and webhooks may go to this machine.
const SETTINGS: [(&str, &str); 3] =
    [("OPEN_SIGNUP", "true"), ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "true")];

/// The roles that answer old clients.
struct Roles {
    _ingest: Process,
    _materializer: Process,
    api: Api,
    system: System,
}

impl Roles {
    async fn start() -> Self {
        let system = System::shared().await;
        let (ingest, materializer, api) = system.inbox_roles(&SETTINGS).await;
        Self { _ingest: ingest, _materializer: materializer, api, system }
    }

    async fn dispatcher(&self) -> Process {
        let dispatcher = self.system.role("dispatcher", &SETTINGS);
        dispatcher.ready().await;
        dispatcher
    }

    /// A client that sends the key of the organization with this header line.
    fn client(&self, library: Library, key_header: &str) -> OldClient {
        self.anonymous(library).with_header(&format!("{key_header}{}", self.api.key))
    }

    fn anonymous(&self, library: Library) -> OldClient {
        OldClient::new(&self.api.base_url, library)
    }
}

/// Waits until the inbox at `path` counts this many events; the page.
async fn page_of(client: &OldClient, path: &str, events: u64) -> Answer {
    eventually(SHOWN, &format!("{path} counts {events} events"), || async {
        let page = client.send(&format!("GET {path}"), "").await.expect(200);
        (page.json()["pagination"]["total_undelivered"] == events).then_some(page)
    })
    .await
}

/// The event ids of a page.
fn ids_of(page: &Value) -> Vec<String> {
    crate::api::ids(page["events"].as_array().unwrap())
}

/// Fails unless the value is UTC in RFC 3339 with milliseconds.
#[track_caller]
fn assert_utc_millis(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{text}");
}

/// Fails unless the answer to an accepted event has all members and headers that old clients read; the event's id.
#[track_caller]
fn assert_accepted(answer: &Answer, event_type: &str) -> String {
    let body = answer.json();
    let id = body["event_id"].as_str().unwrap().to_owned();
    assert_eq!(uuid::Uuid::parse_str(&id).unwrap().to_string(), id);
    assert_eq!((&body["id"], body["status"].as_str()), (&body["event_id"], Some("accepted")), "{body}");
    assert_eq!((body["event_type"].as_str(), body["type"].as_str()), (Some(event_type), Some(event_type)), "{body}");
    assert_utc_millis(&body["timestamp"]);
    assert!(body["message"].is_string() && body["position"].is_string(), "{body}");
    // Shell scripts of old clients cut the id out of the text.
    assert_eq!(answer.text.matches(&format!("\"id\":\"{id}\"")).count(), 1, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_response_headers(answer);
    id
}

/// Fails unless the headers are there that every answer has.
#[track_caller]
fn assert_response_headers(answer: &Answer) {
    let time = answer.header("x-response-time");
    let milliseconds = time.strip_suffix("ms").unwrap_or_else(|| panic!("X-Response-Time: {time}"));
    assert!(milliseconds.parse::<f64>().unwrap() >= 0.0, "X-Response-Time: {time}");
    assert!(!answer.header("x-request-id").is_empty(), "an id for the logs");
    assert_eq!(answer.header("x-correlation-id"), answer.header("x-request-id"));
}

/// Fails unless an event of the inbox has the members that old clients read.
#[track_caller]
fn assert_inbox_event(event: &Value, id: &str, event_type: &str, payload: &Value) {
    assert_eq!((event["event_id"].as_str(), event["id"].as_str()), (Some(id), Some(id)), "{event}");
    assert_eq!((event["event_type"].as_str(), event["type"].as_str()), (Some(event_type), Some(event_type)), "{event}");
    assert_eq!(&event["payload"], payload);
    assert_utc_millis(&event["timestamp"]);
    assert_eq!(event["created_at"], event["timestamp"]);
    assert_eq!((event["status"].as_str(), event["delivery_status"].as_str()), (Some("pending"), Some("pending")));
    assert_eq!(event["attempts"], 0, "{event}");
    let members = event.as_object().unwrap();
    for name in ["occurred_at", "source", "dedup_id", "metadata", "acknowledged_at"] {
        assert!(members.contains_key(name), "{name} is missing: {event}");
    }
}

/// Fails unless all three texts of an error are the same; the text.
#[track_caller]
fn error_text(answer: &Answer) -> String {
    let body = answer.json();
    let text = body["detail"].as_str().unwrap_or_else(|| panic!("no detail in {body}"));
    assert_eq!((body["error"].as_str(), body["message"].as_str()), (Some(text), Some(text)), "{body}");
    assert_eq!(body["status"], answer.status);
    assert_eq!(body["request_id"], answer.header("x-request-id"));
    assert!(body["error_code"].is_string(), "{body}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_response_headers(answer);
    text.to_owned()
}
