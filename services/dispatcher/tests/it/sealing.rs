//! A dispatcher whose sealing key is not the one that endpoints were sealed with.

use devstack::testing::eventually;
use reqwest::{Method, StatusCode};
use runtime::health::Health;
use runtime::seal::SealingKey;
use schemas::ids::EventId;
use schemas::records::DeliveryOutcome;
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, PATIENCE, System, config};

/// An event that a dispatcher with another key has passed; also the endpoint it is for, and that dispatcher's health.
async fn passed_with_another_key(system: &mut System, receiver: &Receiver) -> (EventId, Value, Health) {
    let endpoint = system.endpoint(receiver, json!({})).await;
    let sealing = std::mem::replace(&mut system.sealing, SealingKey::from_bytes([9; 32]));
    let health = system.start_dispatcher(config());
    system.sealing = sealing;
    let event = system.event("a");
    let appended = system.publish(&event).await;
    system.wait_until_passed(&appended).await;
    assert!(!health.is_ready());
    // Taken once and put back for later: a row that is taken at this moment would come up again only then.
    let later = "SELECT count(*) FROM delivery_schedule WHERE state = 'pending' AND lease_id IS NULL AND due_at > now() + interval '10 s'";
    let kept =
        || async { (sqlx::query_scalar::<_, i64>(later).fetch_one(&system.pool).await.unwrap() == 1).then_some(()) };
    eventually(PATIENCE, "the delivery is kept", kept).await;
    assert_eq!(receiver.received().len(), 0);
    (event.event_id, endpoint, health)
}

#[tokio::test]
async fn what_cannot_be_signed_is_kept_and_sent_once_the_key_is_right() {
    let mut system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let (event, ..) = passed_with_another_key(&mut system, &receiver).await;
    system.shut_down().await;
    let health = system.start_dispatcher(config());
    system.make_all_due().await;
    receiver.wait_for_ids(&[event.to_string()]).await;
    eventually(PATIENCE, "the dispatcher is well", || async { health.is_ready().then_some(()) }).await;
}

#[tokio::test]
async fn without_unusable_endpoints_the_dispatcher_is_well_again_although_no_record_comes() {
    let mut system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let (event, endpoint, health) = passed_with_another_key(&mut system, &receiver).await;
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    assert_eq!(system.call(Method::DELETE, &path, KEY, None).await.status, StatusCode::NO_CONTENT);
    eventually(PATIENCE, "the dispatcher is well", || async { health.is_ready().then_some(()) }).await;
    assert_eq!(system.wait_for_reports(event, 1).await.remove(0).outcome, DeliveryOutcome::Cancelled);
    assert_eq!(receiver.received().len(), 0);
}
