//! A dispatcher with another sealing key than the one that sealed the endpoints.

use devstack::testing::eventually;
use reqwest::{Method, StatusCode};
use runtime::health::Health;
use runtime::seal::SealingKey;
use schemas::ids::EventId;
use schemas::records::DeliveryOutcome;
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, PATIENCE, System, config};

/// Publishes an event for a dispatcher with another key. Returns it, its endpoint, and the dispatcher's health.
async fn publish_with_another_key(system: &mut System, receiver: &Receiver) -> (EventId, Value, Health) {
    let endpoint = system.endpoint(receiver, json!({})).await;
    let sealing = std::mem::replace(&mut system.sealing, SealingKey::from_bytes([9; 32]));
    let health = system.start_dispatcher(config());
    system.sealing = sealing;
    let event = system.event("a");
    let appended = system.publish(&event).await;
    system.wait_until_passed(&appended).await;
    assert!(!health.is_ready());
    // It was looked at, and waits until it is looked at again.
    let later = "SELECT count(*) FROM delivery_schedule d JOIN endpoint_queues q USING (endpoint_id)
                 WHERE d.state = 'pending' AND d.lease_id IS NULL AND NOT q.is_held
                       AND q.next_due_at > now() + interval '2 s'";
    let kept =
        || async { (sqlx::query_scalar::<_, i64>(later).fetch_one(&system.pool).await.unwrap() == 1).then_some(()) };
    eventually(PATIENCE, "the delivery is postponed", kept).await;
    assert_eq!(receiver.received().len(), 0);
    (event.event_id, endpoint, health)
}

#[tokio::test]
async fn unsigned_deliveries_are_sent_with_the_right_key_later() {
    let mut system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let (event, ..) = publish_with_another_key(&mut system, &receiver).await;
    system.shut_down().await;
    let health = system.start_dispatcher(config());
    system.make_all_due().await;
    receiver.wait_for_ids(&[event.to_string()]).await;
    eventually(PATIENCE, "the dispatcher is ready", || async { health.is_ready().then_some(()) }).await;
}

#[tokio::test]
async fn it_is_healthy_again_without_the_unusable_endpoint() {
    let mut system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let (event, endpoint, health) = publish_with_another_key(&mut system, &receiver).await;
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    assert_eq!(system.call(Method::DELETE, &path, KEY, None).await.status, StatusCode::NO_CONTENT);
    eventually(PATIENCE, "the dispatcher is ready", || async { health.is_ready().then_some(()) }).await;
    assert_eq!(system.wait_for_reports(event, 1).await.remove(0).outcome, DeliveryOutcome::Cancelled);
    assert_eq!(receiver.received().len(), 0);
}
