//! Batched delivery: several events in one request.

use std::collections::{BTreeMap, BTreeSet};

use devstack::testing::eventually;
use reqwest::{Method, StatusCode};
use schemas::ids::EventId;
use schemas::records::{DeliveryOutcome, Event};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use testkit::receiver::{Received, Receiver, ReceiverBehavior};

use crate::system::{KEY, PATIENCE, System, config};

/// The ids of the events in a batch.
pub(crate) fn ids(request: &Received) -> Vec<String> {
    let bodies = request.json();
    bodies.as_array().unwrap().iter().map(|body| body["id"].as_str().unwrap().to_owned()).collect()
}

/// How often each event came in batches.
fn counts(requests: &[Received]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    requests.iter().flat_map(ids).for_each(|id| *counts.entry(id).or_default() += 1);
    counts
}

/// Waits until each of these events has come in a batch that the receiver took. Returns all requests.
pub(crate) async fn wait_for_events(receiver: &Receiver, events: &[String]) -> Vec<Received> {
    eventually(PATIENCE, "each event comes in a batch", || async {
        let received = receiver.received();
        let counts = counts(&received);
        events.iter().all(|id| counts.contains_key(id)).then_some(received)
    })
    .await
}

async fn publish_all(system: &System, events: &[Event]) -> Vec<String> {
    futures_util::future::join_all(events.iter().map(|event| system.publish(event))).await;
    events.iter().map(|event| event.event_id.to_string()).collect()
}

pub(crate) fn event_id(id: &str) -> EventId {
    id.parse().unwrap()
}

#[tokio::test]
async fn a_thousand_events_arrive_in_few_signed_requests() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let batch = json!({"max_events": 200, "max_wait_ms": 300});
    let endpoint = system.endpoint(&receiver, json!({"batch": batch})).await;
    let ids_sent = system.publish_many(1000).await;
    let received = wait_for_events(&receiver, &ids_sent).await;
    let counts = counts(&received);
    assert_eq!((counts.len(), counts.values().max()), (1000, Some(&1)), "each event comes once");
    assert!(received.len() <= 50, "{} requests", received.len());
    assert!(received.iter().all(|request| ids(request).len() <= 200));
    let verifier = Webhook::new(endpoint["secret"].as_str().unwrap()).unwrap();
    for request in &received {
        verifier.verify(&request.body, &request.headers).unwrap();
        assert_eq!(request.header("content-type"), "application/json");
    }
    let batch_ids: BTreeSet<String> = received.iter().map(Received::id).collect();
    assert_eq!(batch_ids.len(), received.len());
    assert!(batch_ids.iter().all(|id| !counts.contains_key(id)), "a batch has an id of its own");
    // Every event has a report of its own.
    for id in &ids_sent {
        let reports = system.wait_for_reports(event_id(id), 1).await;
        assert_eq!((reports[0].outcome, reports[0].attempt), (DeliveryOutcome::Delivered, 1));
        let request = received.iter().find(|request| ids(request).contains(id)).unwrap();
        assert_eq!(reports[0].batch_id.unwrap().to_string(), request.id(), "it names the request that it shares");
    }
    system.wait_for_schedule("nothing is left", |rows| rows.is_empty()).await;
}

#[tokio::test]
async fn a_batch_that_failed_is_sent_again_as_it_was() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Turns(vec![500, 200])).await;
    let settings = json!({"batch": {"max_events": 5, "max_wait_ms": 500}, "retry_schedule": [1, 3600]});
    system.endpoint(&receiver, settings).await;
    let ids_sent = system.publish_many(5).await;
    wait_for_events(&receiver, &ids_sent).await;
    for id in &ids_sent {
        let reports = system.wait_for_reports(event_id(id), 2).await;
        let outcomes: Vec<_> = reports.iter().map(|report| (report.outcome, report.attempt)).collect();
        assert_eq!(outcomes, [(DeliveryOutcome::Retrying, 1), (DeliveryOutcome::Delivered, 2)]);
    }
    let received = receiver.received();
    assert_eq!(received.len(), 2, "one attempt of all, and one retry of all");
    assert_eq!((received[0].id(), &received[0].body), (received[1].id(), &received[1].body));
    system.wait_for_schedule("nothing is left", |rows| rows.is_empty()).await;
}

#[tokio::test]
async fn a_refused_batch_is_split_until_the_bad_event_is_alone() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Refuse(422, "poison")).await;
    let settings = json!({"batch": {"max_events": 20, "max_wait_ms": 500}, "retry_schedule": [1, 1]});
    system.endpoint(&receiver, settings).await;
    let mut events: Vec<Event> = (0..20).map(|_| system.event("order")).collect();
    events[7].payload = r#"{"text": "poison"}"#.to_owned();
    publish_all(&system, &events).await;
    for (nth, event) in events.iter().enumerate() {
        let expected = if nth == 7 { DeliveryOutcome::Failed } else { DeliveryOutcome::Delivered };
        eventually(PATIENCE, "every delivery ends", || async {
            let reports = system.reports_of(event.event_id);
            reports.last().filter(|report| report.outcome == expected).map(drop)
        })
        .await;
    }
    let bad = events[7].event_id.to_string();
    let sizes: Vec<usize> =
        receiver.received().iter().map(ids).filter(|ids| ids.contains(&bad)).map(|ids| ids.len()).collect();
    assert_eq!(sizes, [20, 2, 1], "a tenth of the events after each failure, and the last attempt alone");
    system.wait_for_schedule("nothing is left", |rows| rows.is_empty()).await;
}

#[tokio::test]
async fn batched_and_single_webhooks_of_one_event() {
    let system = System::start().await;
    let (batched, single) =
        (Receiver::start(ReceiverBehavior::Status(200)).await, Receiver::start(ReceiverBehavior::Status(200)).await);
    system.endpoint(&batched, json!({"batch": {"max_wait_ms": 200}})).await;
    system.endpoint(&single, json!({})).await;
    let ids_sent = system.publish_many(50).await;
    single.wait_for_ids(&ids_sent).await;
    wait_for_events(&batched, &ids_sent).await;
    assert_eq!(single.received().len(), 50);
    assert!(batched.received().len() < 50, "{}", batched.received().len());
    let of_single: BTreeMap<String, Value> =
        single.received().iter().map(|request| (request.id(), request.json())).collect();
    for body in batched.received().iter().flat_map(|request| request.json().as_array().unwrap().clone()) {
        assert_eq!(of_single[body["id"].as_str().unwrap()], body, "an event has the same body in a batch");
    }
}

#[tokio::test]
async fn a_crash_loses_no_event_of_a_batch() {
    let mut system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(503)).await;
    let settings = json!({"batch": {"max_events": 10, "max_wait_ms": 100}, "retry_schedule": [3600, 3600, 3600]});
    system.endpoint(&receiver, settings).await;
    let mut ids_sent = system.publish_many(40).await;
    system.wait_for_schedule("failed batches are scheduled", |rows| rows.len() == 40).await;
    receiver.change(ReceiverBehavior::Hang);
    ids_sent.extend(system.publish_many(40).await);
    let failed = receiver.received().len();
    receiver.wait_for(failed + 1).await;
    system.crash().await;
    receiver.take();
    receiver.change(ReceiverBehavior::Status(200));
    ids_sent.extend(system.publish_many(40).await);
    system.start_dispatcher(config());
    wait_for_events(&receiver, &ids_sent[80..]).await;
    // The test does not wait for the leases of the crashed instance.
    system.make_all_due().await;
    wait_for_events(&receiver, &ids_sent).await;
    system.wait_for_schedule("nothing is left", |rows| rows.is_empty()).await;
    let received = receiver.received();
    assert!(received.len() < 60, "they came in batches: {}", received.len());
}

#[tokio::test]
async fn an_acknowledged_event_is_left_out_of_a_retry() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let settings = json!({"batch": {"max_events": 3, "max_wait_ms": 500}, "retry_schedule": [3600, 3600, 3600]});
    system.endpoint(&receiver, settings).await;
    let events = [system.event("a"), system.event("a"), system.event("a")];
    let appended = system.publish(&events[0]).await;
    let rest = publish_all(&system, &events[1..]).await;
    system.wait_for_schedule("the failed attempts are scheduled", |rows| rows.len() == 3).await;
    system.show(&events[0], &appended, true).await;
    receiver.take();
    receiver.change(ReceiverBehavior::Status(200));
    system.make_all_due().await;
    let received = wait_for_events(&receiver, &rest).await;
    let reports = system.wait_for_reports(events[0].event_id, 2).await;
    assert_eq!((reports[1].outcome, reports[1].attempt), (DeliveryOutcome::Cancelled, 1));
    assert!(!counts(&received).contains_key(&events[0].event_id.to_string()));
    system.wait_for_schedule("nothing is left", |rows| rows.is_empty()).await;
}

#[tokio::test]
async fn a_batch_has_at_most_its_bytes_and_its_format() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let batch = json!({"max_bytes": 4096, "max_wait_ms": 300, "format": "cloudevents"});
    system.endpoint(&receiver, json!({"batch": batch})).await;
    let mut events: Vec<Event> = (0..10).map(|_| system.event("order")).collect();
    for (nth, event) in events.iter_mut().enumerate() {
        event.payload = json!("x".repeat(if nth == 4 { 8000 } else { 1000 })).to_string();
    }
    let ids_sent = publish_all(&system, &events).await;
    let received = wait_for_events(&receiver, &ids_sent).await;
    for request in &received {
        assert_eq!(request.header("content-type"), "application/cloudevents-batch+json; charset=UTF-8");
        let ids = ids(request);
        assert!(request.body.len() <= 4096 || ids == [ids_sent[4].clone()], "{} bytes", request.body.len());
        for event in request.json().as_array().unwrap() {
            assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("order")));
        }
    }
    assert!((4..=10).contains(&received.len()), "{}", received.len());
}

#[tokio::test]
async fn batch_settings_are_shown_changed_and_removed() {
    let system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let endpoint = system.endpoint(&receiver, json!({"batch": {"max_events": 7}})).await;
    let all = |events: u32, wait: u32| {
        let (bytes, format) = (1_048_576, "json");
        json!({"max_events": events, "max_bytes": bytes, "max_wait_ms": wait, "format": format})
    };
    assert_eq!(endpoint["batch"], all(7, 100));
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    let change = async |batch: Value| system.call(Method::PATCH, &path, KEY, Some(json!({"batch": batch}))).await;
    assert_eq!(change(json!({"max_wait_ms": 0})).await.body["batch"], all(100, 0), "they are replaced as a whole");
    let invalid = change(json!({"max_events": 1001, "max_bytes": 1})).await;
    assert_eq!(invalid.status, StatusCode::BAD_REQUEST, "{}", invalid.body);
    let details = invalid.body["details"].as_array().unwrap();
    let fields: Vec<&Value> = details.iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, ["batch.max_events", "batch.max_bytes"]);
    assert_eq!(system.call(Method::GET, &path, KEY, None).await.body["batch"], all(100, 0));
    assert_eq!(change(Value::Null).await.body["batch"], Value::Null);
    let without = system.endpoint(&receiver, json!({"batch": null})).await;
    assert_eq!(without["batch"], Value::Null);
}

#[tokio::test]
async fn an_ordered_endpoint_has_no_batch() {
    let system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let both = json!({"url": receiver.url(), "ordered": true, "batch": {}});
    let refused = system.call(Method::POST, "/endpoints", KEY, Some(both)).await;
    assert_eq!((refused.status, &refused.body["details"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("batch")));
    let endpoint = system.endpoint(&receiver, json!({"batch": {}})).await;
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    let change = async |body: Value| system.call(Method::PATCH, &path, KEY, Some(body)).await.status;
    assert_eq!(change(json!({"ordered": true})).await, StatusCode::BAD_REQUEST);
    assert_eq!(change(json!({"ordered": true, "batch": null})).await, StatusCode::OK);
    assert_eq!(change(json!({"batch": {"max_events": 2}})).await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_is_left_of_lanes_goes_alone() {
    let mut system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let endpoint = system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [1, 1, 1, 1, 1]})).await;
    let sent = system.publish_many(3).await;
    system.wait_for_schedule("the lane is in the schedule", |rows| rows.len() == 3).await;
    system.shut_down().await;
    system.change_endpoint(&endpoint["id"], json!({"ordered": false, "batch": {}})).await;
    receiver.change(ReceiverBehavior::Status(200));
    receiver.take();
    system.start_dispatcher(config());
    let received = wait_for_events(&receiver, &sent).await;
    assert!(received.iter().all(|request| ids(request).len() == 1), "each of them is a batch of one");
}
