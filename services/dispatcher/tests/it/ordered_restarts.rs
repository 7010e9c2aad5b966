//! Ordered endpoints across crashes, spills and rebalances.

use std::time::Duration;

use schemas::records::Event;
use serde_json::json;
use testkit::receiver::ReceiverBehavior;

use crate::ordered::{assert_ordered, id, keyed, receiver, wait_for_all};
use crate::system::{PATIENCE, System, config};

/// Publishes rounds of events: of each round, one event of each of five keys and one without a key; some fail.
async fn publish_rounds(system: &System, events: &mut Vec<Event>, rounds: usize) {
    for round in 0..rounds {
        for key in [Some("a"), Some("b"), Some("c"), Some("d"), Some("e"), None] {
            let failures = u64::from((round + key.map_or(0, |key| usize::from(key.as_bytes()[0]))) % 7 == 0);
            let event = keyed(system, key, failures);
            system.publish(&event).await;
            events.push(event);
        }
    }
}

#[tokio::test]
async fn the_order_survives_a_crash() {
    let mut system = System::start().await;
    let receiver = receiver().await;
    system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [1, 1, 1, 1]})).await;
    let mut events = Vec::new();
    publish_rounds(&system, &mut events, 8).await;
    // The crash comes in the middle of these: some are in flight, some are in the schedule.
    receiver.wait_for(20).await;
    system.crash().await;
    publish_rounds(&system, &mut events, 3).await;
    // The test does not wait for the leases of the crashed instance.
    system.make_due("state = 'pending' AND lease_id IS NOT NULL").await;
    system.start_dispatcher(config());
    publish_rounds(&system, &mut events, 3).await;
    wait_for_all(&receiver, &events).await;
    system.wait_for_schedule("all is delivered", |rows| rows.is_empty()).await;
    assert_ordered(&events, &receiver.received());
}

#[tokio::test]
async fn a_slow_lane_is_spilled_in_its_order() {
    let mut brief = config();
    brief.spill_after = Duration::from_millis(100);
    brief.queue_capacity = 2;
    let system = System::start_with(brief).await;
    let receiver = receiver().await;
    system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [1, 1]})).await;
    let mut events = Vec::new();
    publish_rounds(&system, &mut events, 15).await;
    wait_for_all(&receiver, &events).await;
    system.wait_for_schedule("all is delivered", |rows| rows.is_empty()).await;
    assert_ordered(&events, &receiver.received());
    assert!(receiver.received().len() > events.len(), "some have failed");
}

#[tokio::test]
async fn the_order_survives_rebalances() {
    let mut system = System::start().await;
    let receiver = receiver().await.with_patience(3 * PATIENCE);
    system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [1, 1, 1]})).await;
    let mut events = Vec::new();
    publish_rounds(&system, &mut events, 3).await;
    let until_claimed_again = async |system: &System, events: &mut Vec<Event>, than: i64| {
        while system.epoch().await <= than {
            publish_rounds(system, events, 1).await;
            // Lanes with failures are slower than this loop.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let epoch = system.epoch().await;
    system.start_dispatcher(config());
    until_claimed_again(&system, &mut events, epoch).await;
    publish_rounds(&system, &mut events, 3).await;
    let epoch = system.epoch().await;
    system.shut_down().await;
    until_claimed_again(&system, &mut events, epoch).await;
    publish_rounds(&system, &mut events, 3).await;
    wait_for_all(&receiver, &events).await;
    system.wait_for_schedule("all is delivered", |rows| rows.is_empty()).await;
    assert_ordered(&events, &receiver.received());
}

#[tokio::test]
async fn new_events_follow_those_that_a_crash_left() {
    let mut system = System::start().await;
    let receiver = receiver().await;
    system.endpoint(&receiver, json!({"ordered": true, "retry_schedule": [3600]})).await;
    let mut events = vec![keyed(&system, Some("a"), 1), keyed(&system, Some("a"), 0)];
    for event in &events {
        system.publish(event).await;
    }
    system.wait_for_schedule("both wait", |rows| rows.len() == 2).await;
    system.crash().await;
    receiver.change(ReceiverBehavior::Status(200));
    system.start_dispatcher(config());
    let (later, other) = (keyed(&system, Some("a"), 0), keyed(&system, Some("b"), 0));
    system.publish(&later).await;
    let last = system.publish(&other).await;
    receiver.wait_for_ids(&[id(&other)]).await;
    system.wait_until_passed(&last).await;
    assert_eq!(receiver.counts().get(&id(&later)), None, "it does not overtake the rows of its lane");
    system.make_all_due().await;
    events.push(later);
    wait_for_all(&receiver, &events).await;
    let order: Vec<String> = receiver.received().iter().map(|request| request.id()).collect();
    let first = id(&events[0]);
    assert_eq!(order, [first.clone(), id(&other), first, id(&events[1]), id(&events[2])]);
}
