//! Ordered endpoints: the events of a lane arrive one after the other, and only a lane waits for its failures.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use kafka::producer::Appended;
use reqwest::{Method, StatusCode};
use schemas::records::{DeliveryOutcome, Event};
use serde_json::{Value, json};
use testkit::receiver::{Received, Receiver, ReceiverBehavior};

use crate::manual_retries::{retry, show_delivery};
use crate::system::{KEY, System};

/// How long a receiver takes for an answer. Two requests of one lane are at least this far apart.
const ANSWER_TIME: Duration = Duration::from_millis(20);

/// An event that fails so often. No key: it is in the lane of its organization.
pub(crate) fn keyed(system: &System, key: Option<&str>, failures: u64) -> Event {
    let payload = json!({"failures": failures}).to_string();
    Event { ordering_key: key.map(str::to_owned), payload, ..system.event("ordered") }
}

pub(crate) async fn receiver() -> Receiver {
    Receiver::start(ReceiverBehavior::Failures(ANSWER_TIME)).await
}

pub(crate) fn id(event: &Event) -> String {
    event.event_id.to_string()
}

/// Checks that these events, in this order on the log, were attempted in it, by lane, with one in flight at a time;
/// each until its last failure. Repeats after that are allowed.
pub(crate) fn assert_ordered(events: &[Event], received: &[Received]) {
    let mut arrivals: HashMap<String, Vec<Instant>> = HashMap::new();
    received.iter().for_each(|request| arrivals.entry(request.id()).or_default().push(request.at));
    let mut lanes: BTreeMap<Option<&str>, Vec<&Event>> = BTreeMap::new();
    events.iter().for_each(|event| lanes.entry(event.ordering_key.as_deref()).or_default().push(event));
    for (lane, events) in lanes {
        let mut free_at = None;
        for (nth, event) in events.into_iter().enumerate() {
            let times = arrivals.get(&id(event)).unwrap_or_else(|| panic!("event {nth} of {lane:?} did not arrive"));
            let payload: Value = serde_json::from_str(&event.payload).unwrap();
            let failures = payload["failures"].as_u64().unwrap() as usize;
            assert!(times.len() > failures, "event {nth} of {lane:?} was not repeated until it succeeded");
            let early = free_at.is_some_and(|free_at| times[0] < free_at);
            assert!(!early, "event {nth} of {lane:?} was sent before the one before it was answered");
            free_at = Some(times[failures] + ANSWER_TIME);
        }
    }
}

async fn publish_all(system: &System, events: &[Event]) -> Appended {
    let mut last = None;
    for event in events {
        last = Some(system.publish(event).await);
    }
    last.unwrap()
}

pub(crate) async fn wait_for_all(receiver: &Receiver, events: &[Event]) {
    receiver.wait_for_ids(&events.iter().map(id).collect::<Vec<_>>()).await;
}

fn at(receiver: &Receiver, event: &Event, nth: usize) -> Instant {
    receiver.received().iter().filter(|request| request.id() == id(event)).nth(nth).unwrap().at
}

#[tokio::test]
async fn a_failing_event_holds_back_only_its_lane() {
    let system = System::start().await;
    let receiver = receiver().await;
    let made = system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [2]})).await;
    assert_eq!(made["ordered"], true);
    let events: Vec<Event> = [(Some("a"), 0), (Some("a"), 1), (Some("b"), 0), (None, 0), (Some("a"), 0), (None, 0)]
        .into_iter()
        .chain((0..10).map(|nth| (if nth % 2 == 0 { Some("b") } else { Some("a") }, 0)))
        .map(|(key, failures)| keyed(&system, key, failures))
        .collect();
    let last = publish_all(&system, &events).await;
    wait_for_all(&receiver, &events).await;
    assert_ordered(&events, &receiver.received());
    let retried = at(&receiver, &events[1], 1);
    for event in events.iter().filter(|event| event.ordering_key.as_deref() != Some("a")) {
        assert!(at(&receiver, event, 0) < retried, "another lane waits for the failing event");
    }
    system.wait_until_passed(&last).await;
    system.wait_for_schedule("all is delivered", |rows| rows.is_empty()).await;
    assert_eq!(receiver.received().len(), events.len() + 1, "nothing is sent twice");
}

#[tokio::test]
async fn without_ordered_events_of_a_key_are_sent_at_once() {
    let system = System::start().await;
    let receiver = receiver().await;
    let made = system.endpoint(&receiver, json!({"retry_schedule": [3600]})).await;
    assert_eq!(made["ordered"], false);
    let events = [keyed(&system, Some("a"), 1), keyed(&system, Some("a"), 0)];
    publish_all(&system, &events).await;
    wait_for_all(&receiver, &events).await;
}

#[tokio::test]
async fn a_lane_goes_on_after_the_last_attempt() {
    let system = System::start().await;
    let receiver = receiver().await;
    system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [1]})).await;
    let events = [keyed(&system, None, 100), keyed(&system, None, 0), keyed(&system, None, 100)];
    publish_all(&system, &events).await;
    let reports = system.wait_for_reports(events[2].event_id, 2).await;
    assert_eq!(reports[1].outcome, DeliveryOutcome::Failed);
    let order: Vec<String> = receiver.received().iter().map(Received::id).collect();
    let wanted = [0, 0, 1, 2, 2].map(|nth: usize| id(&events[nth]));
    assert_eq!(order, wanted);
}

#[tokio::test]
async fn a_lane_goes_on_when_its_event_is_acknowledged() {
    let system = System::start().await;
    let receiver = receiver().await;
    system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [3600]})).await;
    let events = [keyed(&system, Some("a"), 1), keyed(&system, Some("a"), 0), keyed(&system, Some("b"), 0)];
    let first = system.publish(&events[0]).await;
    publish_all(&system, &events[1..]).await;
    receiver.wait_for_ids(&[id(&events[0]), id(&events[2])]).await;
    system.wait_for_schedule("the lane waits", |rows| rows.len() == 2).await;
    assert_eq!(receiver.received().len(), 2);
    system.show(&events[0], &first, true).await;
    system.make_all_due().await;
    wait_for_all(&receiver, &events).await;
    let reports = system.wait_for_reports(events[0].event_id, 2).await;
    assert_eq!(reports[1].outcome, DeliveryOutcome::Cancelled);
    assert_eq!(receiver.counts()[&id(&events[0])], 1);
}

#[tokio::test]
async fn an_open_duplicate_decision_holds_its_lane() {
    let system = System::start().await;
    let receiver = receiver().await;
    system.endpoint(&receiver, json!({"ordered": true})).await;
    let undecided = |key: &str| Event { ordering_key: Some("a".to_owned()), ..system.keyed_event(key) };
    let (first, duplicate) = (undecided("k"), undecided("k"));
    let (second, other) = (keyed(&system, Some("a"), 0), keyed(&system, Some("b"), 0));
    let appended = system.publish(&first).await;
    let passed = system.publish(&duplicate).await;
    let last = publish_all(&system, &[second.clone(), other.clone()]).await;
    receiver.wait_for_ids(&[id(&other)]).await;
    // Also when the lane is in the schedule.
    system.wait_until_passed(&last).await;
    assert_eq!(receiver.received().len(), 1, "the lane waits for the decisions");
    system.show(&first, &appended, false).await;
    system.pass_view(&passed).await;
    receiver.wait_for_ids(&[id(&second)]).await;
    let order: Vec<String> = receiver.received().iter().map(Received::id).collect();
    assert_eq!(order, [id(&other), id(&first), id(&second)], "a duplicate holds nobody back any more");
}

#[tokio::test]
async fn ordered_is_turned_on_and_off() {
    let system = System::start().await;
    let receiver = receiver().await;
    let made = system.endpoint(&receiver, json!({"retry_schedule": [3600]})).await;
    let before = keyed(&system, Some("a"), 1);
    system.publish(&before).await;
    wait_for_all(&receiver, std::slice::from_ref(&before)).await;
    system.change_endpoint(&made["id"], json!({"ordered": true})).await;
    let on = [keyed(&system, Some("a"), 1), keyed(&system, Some("a"), 0)];
    publish_all(&system, &on).await;
    wait_for_all(&receiver, &on[..1]).await;
    system.wait_for_schedule("three wait", |rows| rows.len() == 3).await;
    system.change_endpoint(&made["id"], json!({"ordered": false})).await;
    let off = [keyed(&system, Some("a"), 0)];
    publish_all(&system, &off).await;
    wait_for_all(&receiver, &off).await;
    let order: Vec<String> = receiver.received().iter().map(Received::id).collect();
    assert_eq!(order, [id(&before), id(&on[0]), id(&off[0])], "what was accepted while it was on keeps its lane");
    system.make_all_due().await;
    wait_for_all(&receiver, &on).await;
    assert_ordered(&on, &receiver.received());
}

#[tokio::test]
async fn a_retry_by_hand_keeps_to_the_lane_while_it_waits() {
    let system = System::start().await;
    let receiver = receiver().await;
    let made = system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [3600]})).await;
    let events = [keyed(&system, Some("a"), 1), keyed(&system, Some("a"), 0)];
    publish_all(&system, &events).await;
    system.wait_for_schedule("both wait", |rows| rows.len() == 2).await;
    let endpoint = made["id"].as_str().unwrap().parse().unwrap();
    let retry = async |event: &Event| {
        let delivery = schemas::ids::DeliveryId::of(endpoint, event.event_id);
        let answer = system.call(Method::POST, &format!("/deliveries/{delivery}/retry"), KEY, None).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
    };
    retry(&events[1]).await;
    // A later event of another lane shows that the retry was looked at.
    let other = keyed(&system, Some("b"), 1);
    system.publish(&other).await;
    system.wait_for_schedule("the other waits too", |rows| rows.len() == 3).await;
    assert_eq!(receiver.counts().get(&id(&events[1])), None);
    retry(&events[0]).await;
    wait_for_all(&receiver, &events).await;
    assert_ordered(&events, &receiver.received());
}

#[tokio::test]
async fn a_finished_delivery_is_retried_beside_its_lane() {
    let system = System::start().await;
    let receiver = receiver().await;
    system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [3600]})).await;
    let events = [keyed(&system, Some("a"), 0), keyed(&system, Some("a"), 1), keyed(&system, Some("a"), 0)];
    let first = system.publish(&events[0]).await;
    publish_all(&system, &events[1..]).await;
    let report = system.wait_for_reports(events[0].event_id, 1).await.remove(0);
    system.wait_for_schedule("the lane waits", |rows| rows.len() == 2).await;
    show_delivery(&system, &report).await;
    system.show(&events[0], &first, false).await;
    retry(&system, report.delivery_id).await.expect(202);
    let reports = system.wait_for_reports(events[0].event_id, 2).await;
    assert_eq!((reports[1].outcome, reports[1].round), (DeliveryOutcome::Delivered, 1));
    let order: Vec<String> = receiver.received().iter().map(Received::id).collect();
    assert_eq!(order, [0, 1, 0].map(|nth: usize| id(&events[nth])), "the lane still waits for its second event");
}

#[tokio::test]
async fn rows_of_lanes_end_with_their_endpoint() {
    let system = System::start().await;
    let receiver = receiver().await;
    let made = system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [3600]})).await;
    let failing = keyed(&system, None, 100);
    system.publish(&failing).await;
    wait_for_all(&receiver, &[failing]).await;
    let waiting: Vec<Event> = (0..100).map(|_| keyed(&system, None, 0)).collect();
    publish_all(&system, &waiting).await;
    system.wait_for_schedule("all wait", |rows| rows.len() == 101).await;
    let path = format!("/endpoints/{}", made["id"].as_str().unwrap());
    assert_eq!(system.call(Method::DELETE, &path, KEY, None).await.status, StatusCode::NO_CONTENT);
    for event in &waiting {
        let reports = system.wait_for_reports(event.event_id, 1).await;
        assert_eq!(reports[0].outcome, DeliveryOutcome::Cancelled);
    }
    system.wait_for_schedule("nothing is left", |rows| rows.is_empty()).await;
    devstack::testing::eventually(crate::system::PATIENCE, "no lane is left", || async {
        let lanes: i64 =
            sqlx::query_scalar("SELECT count(*) FROM ordered_lanes").fetch_one(&system.pool).await.unwrap();
        (lanes == 0).then_some(())
    })
    .await;
    assert_eq!(receiver.received().len(), 1);
}
