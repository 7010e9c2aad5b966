//! Endpoints that are ordered, or that acknowledge events, from the outside: processes that are killed, and the inbox.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use devstack::testing::eventually;
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::api::{Api, ids};
use crate::system::System;

const RECEIVERS_HERE: &[(&str, &str)] = &[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "true")];
/// How long the receiver takes for an answer.
const ANSWER_TIME: Duration = Duration::from_millis(20);
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
/// A lease ends after the timeout of a request and 25 s; a member that was killed leaves its group after 10 s.
const PATIENCE: Duration = Duration::from_secs(120);

/// Accepts one event of each key; returns ids and how often they fail.
async fn accept_round(api: &Api, round: usize) -> Vec<(usize, String, usize)> {
    let mut accepted = Vec::new();
    for (nth, key) in KEYS.iter().enumerate() {
        let failures = usize::from((round + nth).is_multiple_of(5));
        let body = json!({"event_type": "ordered", "payload": {"failures": failures}, "ordering_key": key});
        let event = api.post("/v1/events", &body).await.expect(201).json();
        accepted.push((nth, event["event_id"].as_str().unwrap().to_owned(), failures));
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_a_key_survives_a_killed_dispatcher() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(RECEIVERS_HERE).await;
    let mut dispatchers = [system.role("dispatcher", RECEIVERS_HERE), system.role("dispatcher", RECEIVERS_HERE)];
    for dispatcher in &dispatchers {
        dispatcher.ready().await;
    }
    let receiver = Receiver::start(ReceiverBehavior::Failures(ANSWER_TIME)).await.with_patience(PATIENCE);
    let body = json!({"url": receiver.url(), "ordered": true, "retry_schedule": [1, 1, 1], "timeout_seconds": 1});
    api.post("/v1/endpoints", &body).await.expect(201);
    let mut accepted = Vec::new();
    for round in 0..30 {
        if round == 10 {
            // One of the two has the partition of the organization. Killing both hits it.
            dispatchers[0].signal(Signal::KILL);
            dispatchers[0].ended().await;
        }
        if round == 20 {
            let next = system.role("dispatcher", RECEIVERS_HERE);
            next.ready().await;
            dispatchers[0] = next;
            dispatchers[1].signal(Signal::KILL);
            dispatchers[1].ended().await;
        }
        accepted.extend(accept_round(&api, round).await);
    }
    let all: Vec<String> = accepted.iter().map(|(_, id, _)| id.clone()).collect();
    receiver.wait_for_ids(&all).await;
    let mut arrivals: HashMap<String, Vec<Instant>> = HashMap::new();
    receiver.received().iter().for_each(|request| arrivals.entry(request.id()).or_default().push(request.at));
    for key in 0..KEYS.len() {
        let mut free_at = None;
        for (_, id, failures) in accepted.iter().filter(|(nth, ..)| *nth == key) {
            let times = &arrivals[id];
            assert!(free_at.is_none_or(|free_at| times[0] >= free_at), "{id} overtook the one before it");
            // The last one may still have retries before it.
            free_at = times.get(*failures).map(|at| *at + ANSWER_TIME).or(free_at);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_leaves_the_inbox_when_all_have_accepted_it() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(RECEIVERS_HERE).await;
    let dispatcher = system.role("dispatcher", RECEIVERS_HERE);
    dispatcher.ready().await;
    let fine = Receiver::start(ReceiverBehavior::Status(200)).await;
    let failing = Receiver::start(ReceiverBehavior::Turns(vec![500])).await;
    let endpoint = async |receiver: &Receiver, more: Value| {
        let mut body = json!({"url": receiver.url(), "retry_schedule": [1]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.post("/v1/endpoints", &body).await.expect(201);
    };
    endpoint(&fine, json!({"event_types": ["one", "two", "three"], "ack_on_success": true})).await;
    endpoint(&fine, json!({"event_types": ["two"]})).await;
    endpoint(&failing, json!({"event_types": ["three", "none"]})).await;
    let other = Receiver::start(ReceiverBehavior::Turns(vec![500, 200])).await;
    endpoint(&other, json!({"event_types": ["two"]})).await;
    let mut events = HashMap::new();
    for event_type in ["one", "two", "three", "none", "unmatched"] {
        events.insert(event_type, api.accept(event_type, &json!({})).await);
    }
    failing.wait_for(4).await;
    other.wait_for(2).await;
    let mut left = ["three", "none", "unmatched"].map(|event_type| events[event_type].clone()).to_vec();
    left.sort_unstable();
    eventually(PATIENCE, "what all have accepted leaves the inbox", || async {
        let mut shown = ids(&api.inbox(100).await);
        shown.sort_unstable();
        (shown == left).then_some(())
    })
    .await;
    for event_type in ["one", "two"] {
        let event = api.get(&format!("/v1/events/{}", events[event_type])).await.expect(200).json();
        assert_ne!(event["acknowledged_at"], Value::Null, "{event}");
    }
    let pool = system.database().await;
    let sql = "SELECT event_id::text FROM delivery_successes";
    let open: Vec<String> = sqlx::query_scalar(sql).fetch_all(&pool).await.unwrap();
    assert_eq!(open, [events["three"].clone()], "what is acknowledged is deleted");
}
