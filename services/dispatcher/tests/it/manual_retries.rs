//! Retries by hand. The rows of the view are written as the materializer would write them.

use kafka::producer::Appended;
use reqwest::Method;
use schemas::ids::DeliveryId;
use schemas::records::{DeliveryAttempt, DeliveryOutcome, Event};
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{Answer, KEY, OTHER_KEY, System};

/// Shows a delivery as its last report says.
pub(crate) async fn show_delivery(system: &System, report: &DeliveryAttempt) {
    let rank = 3 * report.round + i32::from(report.outcome != DeliveryOutcome::Retrying);
    sqlx::query(
        "INSERT INTO view.deliveries (org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts,
                                      last_started_at, created_at, last_appended_at, rank)
         VALUES ($1, $2, $3, $4, $5, $6, $7, now(), now(), now(), $8)
         ON CONFLICT (org_id, delivery_id) DO UPDATE SET status = $6, attempts = $7, rank = $8",
    )
    .bind(report.org_id.as_uuid())
    .bind(report.delivery_id.as_uuid())
    .bind(report.event_id.as_uuid())
    .bind(report.endpoint_id.as_uuid())
    .bind(&report.event_type)
    .bind(report.outcome.as_str())
    .bind(report.attempt)
    .bind(rank)
    .execute(&system.pool)
    .await
    .unwrap();
}

pub(crate) async fn retry(system: &System, delivery: DeliveryId) -> Answer {
    system.call(Method::POST, &format!("/deliveries/{delivery}/retry"), KEY, None).await
}

async fn shown(system: &System, delivery: DeliveryId) -> Value {
    system.call(Method::GET, &format!("/deliveries/{delivery}"), KEY, None).await.expect(200).body
}

/// A delivery that has failed for good after one attempt, as the view shows it.
async fn failed(system: &System, receiver: &Receiver, more: Value) -> (Event, Appended, DeliveryAttempt) {
    system.endpoint(receiver, more).await;
    let event = system.event("a");
    let appended = system.publish(&event).await;
    let report = system.wait_for_reports(event.event_id, 1).await.remove(0);
    assert_eq!(report.outcome, DeliveryOutcome::Failed);
    system.wait_for_schedule("the failed row is swept", |rows| rows.is_empty()).await;
    show_delivery(system, &report).await;
    (event, appended, report)
}

#[tokio::test]
async fn a_finished_delivery_gets_its_schedule_again() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let (event, appended, report) = failed(&system, &receiver, json!({"retry_schedule": []})).await;
    // Acknowledged: who retries it by hand wants it sent all the same.
    system.show(&event, &appended, true).await;
    let path = format!("/endpoints/{}", report.endpoint_id);
    system.call(Method::PATCH, &path, KEY, Some(json!({"retry_schedule": [1]}))).await.expect(200);
    assert_eq!(retry(&system, report.delivery_id).await.expect(202).body, json!({"delivery_id": report.delivery_id}));
    let reports = system.wait_for_reports(event.event_id, 3).await;
    let seen: Vec<_> = reports.iter().map(|report| (report.round, report.attempt, report.outcome)).collect();
    assert_eq!(
        seen,
        [(0, 1, DeliveryOutcome::Failed), (1, 2, DeliveryOutcome::Retrying), (1, 3, DeliveryOutcome::Failed)]
    );
    let received = receiver.wait_for(3).await;
    let body = String::from_utf8_lossy(&received[2].body);
    assert!(body.contains(r#""data":{"n": 1.0},"#), "byte for byte: {body}");

    // Its end is not in the view yet: the row of the schedule knows the numbers.
    system.wait_for_schedule("the row is finished", |rows| rows[0].0 == "failed").await;
    receiver.change(ReceiverBehavior::Status(200));
    retry(&system, report.delivery_id).await.expect(202);
    let last = system.wait_for_reports(event.event_id, 4).await.remove(3);
    assert_eq!((last.round, last.attempt, last.outcome), (2, 4, DeliveryOutcome::Delivered));
    show_delivery(&system, &last).await;
    system.wait_for_schedule("the row is swept when the view shows its end", |rows| rows.is_empty()).await;
    let stored: (i64, i64, i64) =
        sqlx::query_as("SELECT open_rows, event_bytes, (SELECT count(*) FROM delivery_events) FROM delivery_usage")
            .fetch_one(&system.pool)
            .await
            .unwrap();
    assert_eq!(stored, (0, 0, 0));
    let page = system.call(Method::GET, "/audit", KEY, None).await.expect(200).body;
    let entry = &page["entries"][0];
    assert_eq!(
        (&entry["action"], &entry["detail"]["endpoint_id"]),
        (&json!("delivery.retried"), &json!(report.endpoint_id))
    );
}

#[tokio::test]
async fn a_row_of_a_retry_goes_whatever_epoch_the_view_counts() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let (event, appended, report) = failed(&system, &receiver, json!({"retry_schedule": []})).await;
    system.show(&event, &appended, false).await;
    sqlx::query("UPDATE view.events SET log_epoch = 7").execute(&system.pool).await.unwrap();
    receiver.change(ReceiverBehavior::Status(200));
    retry(&system, report.delivery_id).await.expect(202);
    let last = system.wait_for_reports(event.event_id, 2).await.remove(1);
    assert_eq!(last.outcome, DeliveryOutcome::Delivered);
    show_delivery(&system, &last).await;
    system.wait_for_schedule("the row is swept", |rows| rows.is_empty()).await;
}

#[tokio::test]
async fn a_double_click_sends_once() {
    let mut system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let (event, appended, report) = failed(&system, &receiver, json!({"retry_schedule": []})).await;
    system.show(&event, &appended, false).await;
    system.shut_down().await;
    let clicks = (0..8).map(|_| retry(&system, report.delivery_id));
    for answer in futures_util::future::join_all(clicks).await {
        answer.expect(202);
    }
    assert_eq!(system.schedule().await, [("pending".to_owned(), 1, false)]);
    assert_eq!(shown(&system, report.delivery_id).await["status"], "pending");
    system.start_dispatcher(crate::system::config());
    let reports = system.wait_for_reports(event.event_id, 2).await;
    assert_eq!((reports[1].round, reports[1].attempt), (1, 2));
    system.wait_for_schedule("the row is finished", |rows| rows[0].0 == "failed").await;
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn a_waiting_delivery_is_retried_at_once() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Turns(vec![500, 500, 200])).await;
    system.endpoint(&receiver, json!({"retry_schedule": [3600, 7200]})).await;
    let event = system.event("a");
    system.publish(&event).await;
    let first = system.wait_for_reports(event.event_id, 1).await.remove(0);
    system.wait_for_schedule("it waits for its retry", |rows| rows == [("pending".to_owned(), 1, false)]).await;
    retry(&system, first.delivery_id).await.expect(202);
    let second = system.wait_for_reports(event.event_id, 2).await.remove(1);
    assert_eq!((second.round, second.attempt, second.outcome), (0, 2, DeliveryOutcome::Retrying));
    let delay = second.next_attempt_at.unwrap() - second.started_at;
    assert!(delay > 5_000_000_000, "its schedule goes on: {delay}");
}

#[tokio::test]
async fn a_retry_waits_until_the_endpoint_is_enabled() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let (event, appended, report) = failed(&system, &receiver, json!({"retry_schedule": []})).await;
    system.show(&event, &appended, false).await;
    let endpoint = format!("/endpoints/{}", report.endpoint_id);
    system.call(Method::POST, &format!("{endpoint}/disable"), KEY, None).await.expect(200);
    retry(&system, report.delivery_id).await.expect(202);
    system.wait_for_schedule("the delivery is held", |rows| rows == [("held".to_owned(), 1, false)]).await;
    assert_eq!(receiver.received().len(), 1);
    system.call(Method::POST, &format!("{endpoint}/enable"), KEY, None).await.expect(200);
    let reports = system.wait_for_reports(event.event_id, 2).await;
    assert_eq!((reports[1].round, reports[1].attempt), (1, 2));
}

#[tokio::test]
async fn a_delivery_that_cannot_be_sent_says_why() {
    let mut system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let (event, appended, report) = failed(&system, &receiver, json!({"retry_schedule": []})).await;
    let delivery = report.delivery_id;
    system.shut_down().await;
    let refused = async |status: u16, code: &str| {
        let answer = retry(&system, delivery).await.expect(status);
        assert_eq!(answer.body["error_code"], code);
        assert!(system.schedule().await.is_empty(), "{code}: nothing is scheduled");
    };
    refused(409, "event_not_kept").await;
    system.show(&event, &appended, false).await;
    let path = format!("/deliveries/{delivery}/retry");
    system.call(Method::POST, &path, OTHER_KEY, None).await.expect(404);
    show_delivery(&system, &DeliveryAttempt { outcome: DeliveryOutcome::Retrying, ..report.clone() }).await;
    refused(503, "unavailable").await;
    show_delivery(&system, &report).await;
    let usage = "INSERT INTO delivery_usage VALUES ($1, $2, 0)
                 ON CONFLICT (org_id) DO UPDATE SET open_rows = EXCLUDED.open_rows";
    for rows in [1_000_000_i64, 0] {
        sqlx::query(usage).bind(system.org.as_uuid()).bind(rows).execute(&system.pool).await.unwrap();
        if rows > 0 {
            refused(409, "too_many_open_deliveries").await;
        }
    }
    let endpoint = format!("/endpoints/{}", report.endpoint_id);
    system.call(Method::DELETE, &endpoint, KEY, None).await.expect(204);
    refused(409, "endpoint_deleted").await;
}
