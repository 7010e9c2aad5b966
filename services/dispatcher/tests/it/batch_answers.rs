//! What an answer to a batch does: to its events, and to the endpoint.

use std::collections::BTreeSet;
use std::time::Duration;

use devstack::testing::eventually;
use reqwest::Method;
use schemas::records::DeliveryOutcome;
use serde_json::json;
use testkit::receiver::{Received, Receiver, ReceiverBehavior};

use crate::batches::{event_id, ids, wait_for_events};
use crate::rates::{stats, wait_for_stats};
use crate::system::{KEY, PATIENCE, System};

const ASKED_SECONDS: i64 = 600;

#[tokio::test]
async fn a_batch_answered_410_disables_its_endpoint() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(410)).await;
    let batch = json!({"max_events": 5, "max_wait_ms": 500});
    let endpoint = system.endpoint(&receiver, json!({"batch": batch})).await;
    let sent = system.publish_many(5).await;
    for id in &sent {
        let report = system.wait_for_reports(event_id(id), 1).await.remove(0);
        let seen = (report.outcome, report.status_code, report.attempt, report.next_attempt_at);
        assert_eq!(seen, (DeliveryOutcome::Failed, Some(410), 1, None), "each of its events has failed");
    }
    assert_eq!(receiver.received().iter().map(|request| ids(request).len()).max(), Some(5), "they shared a request");
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    eventually(PATIENCE, "the endpoint is disabled", || async {
        let shown = system.call(Method::GET, &path, KEY, None).await.expect(200).body;
        (shown["disabled_reason"] == "gone").then_some(())
    })
    .await;
    let page = system.call(Method::GET, "/audit?action=endpoint.disabled", KEY, None).await.expect(200).body;
    assert_eq!(page["entries"].as_array().unwrap().len(), 1, "it is disabled once: {page}");
    let requests = receiver.received().len();
    let appended = system.publish(&system.event("a")).await;
    system.wait_until_passed(&appended).await;
    assert_eq!(receiver.received().len(), requests, "it gets nothing more");
    system.wait_for_schedule("nothing is left", |rows| rows.is_empty()).await;
}

#[tokio::test]
async fn retry_after_delays_each_event_of_a_batch() {
    let system = System::start().await;
    let mut endpoints = Vec::new();
    for status in [429, 503] {
        let behavior = ReceiverBehavior::Header(status, "retry-after", ASKED_SECONDS.to_string());
        let receiver = Receiver::start(behavior).await;
        let settings = json!({"batch": {"max_events": 5, "max_wait_ms": 500}, "retry_schedule": [1, 1, 1]});
        endpoints.push((status, system.endpoint(&receiver, settings).await, receiver));
    }
    let sent = system.publish_many(5).await;
    for id in &sent {
        for report in system.wait_for_reports(event_id(id), 2).await {
            assert_eq!(report.outcome, DeliveryOutcome::Retrying);
            let seconds = (report.next_attempt_at.unwrap() - report.started_at) / 1_000_000;
            assert!((ASKED_SECONDS..ASKED_SECONDS + 10).contains(&seconds), "{:?}: {seconds} s", report.status_code);
        }
    }
    system.wait_for_schedule("both batches are scheduled", |rows| rows.len() == 10).await;
    let sql = "SELECT min(extract(epoch FROM due_at - now()))::float8 FROM delivery_schedule";
    let soonest: f64 = sqlx::query_scalar(sql).fetch_one(&system.pool).await.unwrap();
    assert!(soonest > ASKED_SECONDS as f64 - 30.0, "one of them is due in {soonest} s");
    let [(_, limited, of_limited), (_, busy, of_busy)] = endpoints.as_slice() else { panic!("two endpoints") };
    wait_for_stats(&system, limited, "a 429 stops its endpoint", |stats| !stats["circuit_retry_at"].is_null()).await;
    assert!(stats(&system, busy).await["circuit_retry_at"].is_null(), "a 503 is about its own events only");
    let first = of_busy.take();
    let requests_before = of_limited.received().len();
    of_busy.change(ReceiverBehavior::Status(200));
    system.make_all_due().await;
    let retried = wait_for_events(of_busy, &sent).await;
    let batches = |requests: &[Received]| requests.iter().map(Received::id).collect::<BTreeSet<_>>();
    assert_eq!(batches(&retried), batches(&first), "the same events share a request again");
    assert_eq!(of_limited.received().len(), requests_before, "what waits for the end of the pause is not sent");
}

#[tokio::test]
async fn a_batch_is_the_probe_of_an_open_circuit() {
    const PROBING: Duration = Duration::from_millis(1500);
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Hang).await;
    let batch = json!({"max_events": 10, "max_wait_ms": 300});
    let settings = json!({"batch": batch, "timeout_seconds": 3, "retry_schedule": [3600]});
    let endpoint = system.endpoint(&receiver, settings).await;
    let hanging = system.publish_many(30).await;
    wait_for_stats(&system, &endpoint, "the circuit opens", |stats| stats["circuit"] == "open").await;
    let requests = receiver.take().len();
    assert!((3..=6).contains(&requests), "a batch counts once for the circuit: {requests}");
    receiver.change(ReceiverBehavior::Slow(PROBING));
    let waiting = system.publish_many(40).await;
    let received = wait_for_events(&receiver, &waiting).await;
    let probe = &received[0];
    assert!((2..=10).contains(&ids(probe).len()), "the probe is a batch of {}", ids(probe).len());
    assert!(received[1].at - probe.at >= PROBING, "nothing else was sent before the probe was answered");
    wait_for_stats(&system, &endpoint, "the circuit closes", |stats| stats["circuit"] == "closed").await;
    for id in &waiting {
        let report = system.wait_for_reports(event_id(id), 1).await.remove(0);
        assert_eq!((report.outcome, report.attempt), (DeliveryOutcome::Delivered, 1), "waiting is no attempt");
    }
    // What had failed before waits for its own retry.
    system.wait_for_schedule("only failed attempts are left", |rows| rows.iter().all(|row| row.1 == 1)).await;
    for id in &hanging {
        let report = system.wait_for_reports(event_id(id), 1).await.remove(0);
        assert_eq!(report.attempt, 1, "it failed with its batch, or waited");
    }
}
