//! Retries: their schedule, their end, and what cancels or holds them.

use std::time::Duration;

use devstack::testing::eventually;
use reqwest::{Method, StatusCode};
use schemas::records::DeliveryOutcome;
use serde_json::json;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, PATIENCE, System};

#[tokio::test]
async fn a_failing_endpoint_is_retried_by_its_schedule() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Turns(vec![500, 200])).await;
    system.endpoint(&receiver, json!({"retry_schedule": [1]})).await;
    let event = system.event("a");
    system.publish(&event).await;
    let reports = system.wait_for_reports(event.event_id, 2).await;
    assert_eq!(
        (reports[0].outcome, reports[0].attempt, reports[0].status_code),
        (DeliveryOutcome::Retrying, 1, Some(500))
    );
    assert_eq!(
        (reports[1].outcome, reports[1].attempt, reports[1].status_code),
        (DeliveryOutcome::Delivered, 2, Some(200))
    );
    assert_eq!(reports[0].delivery_id, reports[1].delivery_id);
    assert_eq!(reports[0].error.as_deref(), Some("the endpoint answered 500"));
    let delay_us = reports[0].next_attempt_at.unwrap() - reports[0].started_at;
    assert!((800_000..2_000_000).contains(&delay_us), "{delay_us}");
    let received = receiver.wait_for(2).await;
    let gap = received[1].at - received[0].at;
    assert!(gap >= Duration::from_millis(790), "{gap:?}");
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    assert_eq!(received[0].body, received[1].body);
    system.wait_for_schedule("the finished row is swept", |rows| rows.is_empty()).await;
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn a_delivery_fails_after_its_last_attempt() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(503)).await;
    system.endpoint(&receiver, json!({"retry_schedule": [1]})).await;
    let event = system.event("a");
    system.publish(&event).await;
    let reports = system.wait_for_reports(event.event_id, 2).await;
    assert_eq!(
        (reports[1].outcome, reports[1].attempt, reports[1].next_attempt_at),
        (DeliveryOutcome::Failed, 2, None)
    );
    system.wait_for_schedule("the failed row is swept", |rows| rows.is_empty()).await;
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn an_acknowledged_event_is_not_retried() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    system.endpoint(&receiver, json!({"retry_schedule": [3600]})).await;
    let event = system.event("a");
    let appended = system.publish(&event).await;
    system.wait_for_schedule("the failed attempt is scheduled", |rows| rows.len() == 1).await;
    system.show(&event, &appended, true).await;
    system.make_all_due().await;
    let reports = system.wait_for_reports(event.event_id, 2).await;
    assert_eq!((reports[1].outcome, reports[1].attempt), (DeliveryOutcome::Cancelled, 1));
    system.wait_for_schedule("the cancelled row is swept", |rows| rows.is_empty()).await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn pending_deliveries_of_a_deleted_endpoint_are_cancelled() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let endpoint = system.endpoint(&receiver, json!({"retry_schedule": [3600]})).await;
    let event = system.event("a");
    system.publish(&event).await;
    system.wait_for_schedule("the failed attempt is scheduled", |rows| rows.len() == 1).await;
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    assert_eq!(system.call(Method::DELETE, &path, KEY, None).await.status, StatusCode::NO_CONTENT);
    let reports = system.wait_for_reports(event.event_id, 2).await;
    assert_eq!(
        (reports[1].outcome, reports[1].error.as_deref()),
        (DeliveryOutcome::Cancelled, Some("the endpoint was deleted"))
    );
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn deliveries_of_a_disabled_endpoint_are_held() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Turns(vec![500, 200])).await;
    let endpoint = system.endpoint(&receiver, json!({"retry_schedule": [3600]})).await;
    let event = system.event("a");
    system.publish(&event).await;
    system.wait_for_schedule("the failed attempt is scheduled", |rows| rows.len() == 1).await;
    system.change_endpoint(&endpoint["id"], json!({"enabled": false})).await;
    system.make_all_due().await;
    system.wait_for_schedule("the row is held", |rows| rows == [("held".to_owned(), 1, false)]).await;
    assert_eq!(receiver.received().len(), 1);
    system.change_endpoint(&endpoint["id"], json!({"enabled": true})).await;
    let reports = system.wait_for_reports(event.event_id, 2).await;
    assert_eq!((reports[1].outcome, reports[1].attempt), (DeliveryOutcome::Delivered, 2));
}

#[tokio::test]
async fn an_endpoint_that_answers_410_is_disabled() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(410)).await;
    let endpoint = system.endpoint(&receiver, json!({})).await;
    let event = system.event("a");
    system.publish(&event).await;
    let report = system.wait_for_reports(event.event_id, 1).await.remove(0);
    assert_eq!((report.outcome, report.status_code), (DeliveryOutcome::Failed, Some(410)));
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
    let shown = eventually(PATIENCE, "the endpoint is disabled", || async {
        Some(system.call(Method::GET, &path, KEY, None).await.body).filter(|shown| shown["enabled"] == false)
    })
    .await;
    assert_eq!((&shown["status"], &shown["disabled_reason"]), (&json!("disabled"), &json!("gone")));
    let page = system.call(Method::GET, "/audit?action=endpoint.disabled", KEY, None).await.expect(200).body;
    let [entry] = page["entries"].as_array().unwrap().as_slice() else { panic!("one entry: {page}") };
    assert_eq!((&entry["actor"], &entry["target"]), (&json!("system"), &endpoint["id"]));
    assert_eq!((&entry["detail"]["disabled_reason"], &entry["address"]), (&json!("gone"), &json!(null)));
    let appended = system.publish(&system.event("a")).await;
    system.wait_until_passed(&appended).await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let system = System::start().await;
    let elsewhere = Receiver::start(ReceiverBehavior::Status(200)).await;
    let receiver = Receiver::start(ReceiverBehavior::Header(307, "location", elsewhere.url())).await;
    system.endpoint(&receiver, json!({"retry_schedule": []})).await;
    let event = system.event("a");
    system.publish(&event).await;
    let report = system.wait_for_reports(event.event_id, 1).await.remove(0);
    assert_eq!((report.outcome, report.status_code), (DeliveryOutcome::Failed, Some(307)));
    assert_eq!(elsewhere.received().len(), 0, "the redirect is not followed");
}

#[tokio::test]
async fn retry_after_extends_the_delay() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Header(429, "retry-after", "600".to_owned())).await;
    system.endpoint(&receiver, json!({"retry_schedule": [1]})).await;
    let event = system.event("a");
    system.publish(&event).await;
    let report = system.wait_for_reports(event.event_id, 1).await.remove(0);
    let delay_seconds = (report.next_attempt_at.unwrap() - report.started_at) / 1_000_000;
    assert!((600..610).contains(&delay_seconds), "{delay_seconds}");
    system.wait_for_schedule("the attempt is scheduled", |rows| rows.len() == 1).await;
    let (due,): (f64,) =
        sqlx::query_as("SELECT extract(epoch FROM due_at - now())::double precision FROM delivery_schedule")
            .fetch_one(&system.pool)
            .await
            .unwrap();
    assert!((590.0..610.0).contains(&due), "{due}");
}

#[tokio::test]
async fn a_hanging_endpoint_delays_no_retries_of_others() {
    let system = System::start().await;
    let hanging = Receiver::start(ReceiverBehavior::Hang).await;
    let failing = Receiver::start(ReceiverBehavior::Status(500)).await;
    system.endpoint(&hanging, json!({"timeout_seconds": 30, "max_in_flight": 1, "retry_schedule": []})).await;
    system.endpoint(&failing, json!({"retry_schedule": [3600]})).await;
    let ids = system.publish_many(100).await;
    failing.wait_for_ids(&ids).await;
    system.wait_for_schedule("all deliveries are scheduled", |rows| rows.len() == 200).await;
    failing.change(ReceiverBehavior::Status(200));
    system.make_due("attempts = 1").await;
    // A hundred rows of the hanging endpoint are due before these.
    failing.wait_for(200).await;
    assert_eq!(hanging.received().len(), 1);
}
