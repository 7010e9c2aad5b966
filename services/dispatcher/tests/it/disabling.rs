//! Endpoints that the system disables, and the event that tells the organization.

use std::time::Duration;

use devstack::testing::{eventually, read_topic};
use dispatcher::DispatcherConfig;
use rdkafka::Message;
use rdkafka::message::Headers;
use reqwest::Method;
use schemas::codec;
use schemas::headers::SYSTEM_SIGNATURE;
use schemas::ids::EventId;
use schemas::native::SystemKey;
use schemas::records::Event;
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, PATIENCE, System, config};

const HOUR: Duration = Duration::from_secs(3600);

fn patient() -> DispatcherConfig {
    DispatcherConfig { disable_after: Some(100 * HOUR), ..config() }
}

/// The events of reserved types on the log. Each must have its signature.
async fn system_events(system: &System) -> Vec<Event> {
    let key: Vec<u8> = sqlx::query_scalar("SELECT key FROM system_event_key").fetch_one(&system.pool).await.unwrap();
    let key = SystemKey::from_bytes(key.try_into().unwrap());
    let mut found = Vec::new();
    for message in read_topic(&system.kafka.brokers, &system.kafka.topics.events).await {
        let value = message.payload().unwrap();
        let event = codec::decode_event(value).unwrap();
        if event.event_type.starts_with("triggers.") {
            let headers = message.headers().unwrap();
            let signature = headers.iter().find(|header| header.key == SYSTEM_SIGNATURE).unwrap();
            assert_eq!(signature.value, Some(key.sign(value).as_bytes()));
            assert_eq!(message.key(), Some(event.org_id.to_string().as_bytes()));
            found.push(event);
        }
    }
    found
}

async fn wait_for_system_event(system: &System) -> Event {
    let event = eventually(PATIENCE, "the event is on the log", || async { system_events(system).await.pop() }).await;
    eventually(PATIENCE, "its row is deleted", || async {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM system_events").fetch_one(&system.pool).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(system_events(system).await.len(), 1, "it is there once");
    event
}

async fn wait_until_failing(system: &System, is_failing: bool) {
    eventually(PATIENCE, "the failures are noted, or forgotten", || async {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM endpoint_conditions WHERE failing_since IS NOT NULL")
            .fetch_one(&system.pool)
            .await
            .unwrap();
        ((count > 0) == is_failing).then_some(())
    })
    .await;
}

/// As if the first failure had been so many hours before.
async fn let_hours_pass(system: &System, hours: i32) {
    let sql = "UPDATE endpoint_conditions SET failing_since = failing_since - make_interval(hours => $1)";
    sqlx::query(sql).bind(hours).execute(&system.pool).await.unwrap();
}

async fn wait_until_disabled(system: &System, endpoint: &Value) -> Value {
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    eventually(PATIENCE, "the endpoint is disabled", || async {
        Some(system.call(Method::GET, &path, KEY, None).await.body).filter(|shown| shown["enabled"] == false)
    })
    .await
}

#[tokio::test]
async fn an_endpoint_that_only_fails_is_disabled_once() {
    let mut system = System::start_with(patient()).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let url = format!("{}?token=secret", receiver.url());
    let endpoint = system.endpoint(&receiver, json!({"url": url, "retry_schedule": []})).await;
    system.publish(&system.event("a")).await;
    wait_until_failing(&system, true).await;
    let_hours_pass(&system, 101).await;
    // A dispatcher that starts reports the next failure at once.
    system.shut_down().await;
    system.start_dispatcher(patient());
    system.publish(&system.event("a")).await;
    let shown = wait_until_disabled(&system, &endpoint).await;
    assert_eq!((&shown["status"], &shown["disabled_reason"]), (&json!("disabled"), &json!("failing")));
    assert!(shown["disabled_at"].is_string(), "{shown}");

    let event = wait_for_system_event(&system).await;
    assert_eq!((event.event_type.as_str(), event.org_id), ("triggers.endpoint.disabled", system.org));
    let payload: Value = serde_json::from_str(&event.payload).unwrap();
    assert_eq!((&payload["endpoint_id"], &payload["reason"]), (&endpoint["id"], &json!("failing")));
    assert_eq!(payload["url"], receiver.url(), "without the query");
    assert!(payload["failing_since"].is_string(), "{payload}");
    let page = system.call(Method::GET, "/audit?action=endpoint.disabled", KEY, None).await.expect(200).body;
    let [entry] = page["entries"].as_array().unwrap().as_slice() else { panic!("one entry: {page}") };
    assert_eq!((&entry["actor"], &entry["detail"]["disabled_reason"]), (&json!("system"), &json!("failing")));

    system.change_endpoint(&endpoint["id"], json!({"enabled": true})).await;
    wait_until_failing(&system, false).await;
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    let shown = system.call(Method::GET, &path, KEY, None).await.body;
    assert_eq!((&shown["disabled_reason"], &shown["disabled_at"]), (&json!(null), &json!(null)));
}

#[tokio::test]
async fn a_success_forgets_the_failures() {
    let mut system = System::start_with(patient()).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let endpoint = system.endpoint(&receiver, json!({"retry_schedule": []})).await;
    system.publish(&system.event("a")).await;
    wait_until_failing(&system, true).await;
    let_hours_pass(&system, 101).await;
    system.shut_down().await;
    receiver.change(ReceiverBehavior::Status(200));
    system.start_dispatcher(patient());
    system.publish(&system.event("a")).await;
    wait_until_failing(&system, false).await;
    receiver.change(ReceiverBehavior::Status(500));
    system.publish(&system.event("a")).await;
    wait_until_failing(&system, true).await;
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    assert_eq!(system.call(Method::GET, &path, KEY, None).await.body["enabled"], true);
    assert!(system_events(&system).await.is_empty());
}

#[tokio::test]
async fn an_endpoint_that_is_gone_gives_its_own_reason() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(410)).await;
    let endpoint = system.endpoint(&receiver, json!({})).await;
    system.publish(&system.event("a")).await;
    assert_eq!(wait_until_disabled(&system, &endpoint).await["disabled_reason"], "gone");
    let event = wait_for_system_event(&system).await;
    let payload: Value = serde_json::from_str(&event.payload).unwrap();
    assert_eq!((&payload["endpoint_id"], &payload["reason"]), (&endpoint["id"], &json!("gone")));
}

#[tokio::test]
async fn an_event_that_a_crash_left_is_appended_later() {
    let mut system = System::without_dispatcher().await;
    let event_id = EventId::generate();
    sqlx::query("INSERT INTO system_events (event_id, org_id, event_type, payload) VALUES ($1, $2, $3, '{}')")
        .bind(event_id.as_uuid())
        .bind(system.org.as_uuid())
        .bind("triggers.endpoint.disabled")
        .execute(&system.pool)
        .await
        .unwrap();
    system.start_dispatcher(config());
    assert_eq!(wait_for_system_event(&system).await.event_id, event_id);
}
