//! What the settings of an endpoint do, where no other test is about them.

use schemas::records::DeliveryOutcome;
use serde_json::json;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{System, config};

#[tokio::test]
async fn a_changed_setting_holds_for_deliveries_that_wait() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let settings = json!({
        "url": receiver.url_of("old"), "event_types": ["order"], "headers": {"x-a": "1"}, "retry_schedule": [3600],
    });
    let endpoint = system.endpoint(&receiver, settings).await;
    let event = system.event("order");
    system.publish(&event).await;
    system.wait_for_schedule("the failed attempt is scheduled", |rows| rows.len() == 1).await;
    let change = json!({
        "url": receiver.url_of("new"), "event_types": ["refund"], "headers": {"x-a": "2"}, "retry_schedule": [],
    });
    system.change_endpoint(&endpoint["id"], change).await;
    system.make_all_due().await;
    let reports = system.wait_for_reports(event.event_id, 2).await;
    assert_eq!((reports[1].outcome, reports[1].attempt), (DeliveryOutcome::Failed, 2), "no delay is left");
    let received = receiver.received();
    let seen: Vec<_> = received.iter().map(|request| (request.path.as_str(), request.header("x-a"))).collect();
    assert_eq!(seen, [("/old", "1"), ("/new", "2")], "it is sent whatever the endpoint matches by now");
    let appended = system.publish(&system.event("order")).await;
    system.wait_until_passed(&appended).await;
    assert_eq!(receiver.received().len(), 2, "new events are matched as it is now");
}

#[tokio::test]
async fn an_endpoint_without_max_in_flight_has_the_option() {
    let mut narrow = config();
    narrow.max_in_flight_per_endpoint = 2;
    let system = System::start_with(narrow).await;
    let (own, other) = (Receiver::start(ReceiverBehavior::Hang).await, Receiver::start(ReceiverBehavior::Hang).await);
    system.endpoint(&own, json!({"max_in_flight": 5, "timeout_seconds": 30})).await;
    system.endpoint(&other, json!({"timeout_seconds": 30})).await;
    system.publish_many(20).await;
    own.wait_for(5).await;
    other.wait_for(2).await;
    system.wait_for_schedule("what waits is in the schedule", |rows| rows.len() == 40).await;
    assert_eq!((own.received().len(), other.received().len()), (5, 2));
}
