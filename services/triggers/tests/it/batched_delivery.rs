//! Batched delivery from the outside: a system with all roles, and a dispatcher that is killed.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use devstack::Signal;
use devstack::testing::eventually;
use serde_json::{Value, json};
use testkit::receiver::{Received, Receiver, ReceiverBehavior};
use triggers_client::webhook;

use crate::system::System;

const RECEIVERS_HERE: &[(&str, &str)] = &[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "true")];
/// Longer than the lease of an attempt with a timeout of 3 s.
const PATIENCE: Duration = Duration::from_secs(90);

fn events(request: &Received) -> Vec<String> {
    let bodies = request.json();
    bodies.as_array().unwrap().iter().map(|body| body["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_dispatcher_loses_no_event_of_its_batches() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(RECEIVERS_HERE).await;
    let mut killed = system.role("dispatcher", RECEIVERS_HERE);
    killed.ready().await;
    let receiver = Receiver::start(ReceiverBehavior::Slow(Duration::from_millis(300))).await;
    let batch = json!({"max_events": 20, "max_wait_ms": 50});
    let body = json!({"url": receiver.url(), "timeout_seconds": 3, "max_in_flight": 2, "batch": batch});
    let endpoint = api.post("/v1/endpoints", &body).await.expect(201).json();
    let items: Vec<Value> = (0..300).map(|n| json!({"event_type": "order.created", "payload": {"n": n}})).collect();
    let accepted = api.post("/v1/events/batch", &json!({ "events": items })).await.expect(200).json();
    let sent: BTreeSet<String> = accepted["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["event_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(sent.len(), 300);
    eventually(PATIENCE, "some batches arrive", || async { (receiver.received().len() >= 4).then_some(()) }).await;
    killed.signal(Signal::KILL);
    killed.ended().await;
    let before = receiver.received().len();
    receiver.change(ReceiverBehavior::Status(200));
    let dispatcher = system.role("dispatcher", RECEIVERS_HERE);
    dispatcher.ready().await;
    let received = eventually(PATIENCE, "every event arrives", || async {
        let received = receiver.received();
        let seen: BTreeSet<String> = received.iter().flat_map(events).collect();
        (seen == sent).then_some(received)
    })
    .await;
    let twice = received.iter().flat_map(events).count() - sent.len();
    // Two batches in flight, and two that had ended since the last commit of positions.
    assert!(twice <= 4 * 20, "only what was in flight comes twice: {twice} after {before} requests");
    assert!(received.len() < 100, "they came in batches: {}", received.len());

    // Each delivery shows the request that it shares.
    let request = received.last().unwrap();
    let (secret, now) = (endpoint["secret"].as_str().unwrap(), SystemTime::now());
    let verified = webhook::verify_batch(secret, &request.headers, &request.body, now, webhook::TOLERANCE).unwrap();
    let verified: Vec<String> = verified.into_iter().map(|event| event.event_id).collect();
    assert_eq!(verified, events(request), "a receiver with the client reads the same events");
    for event in events(request) {
        let shown = eventually(PATIENCE, "the delivery is shown", || async {
            let page = api.get(&format!("/v1/events/{event}/deliveries?status=delivered")).await;
            let page = (page.status == 200).then(|| page.json())?;
            page["deliveries"][0]["delivery_id"].as_str().map(str::to_owned)
        })
        .await;
        let shown = api.get(&format!("/v1/deliveries/{shown}")).await.expect(200).json();
        let last = shown["attempts_log"].as_array().unwrap().last().unwrap();
        assert_eq!(last["batch_id"], request.id());
    }
}
