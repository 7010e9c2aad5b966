//! What the schedule stores: payloads once, bounded by organization, not for ever, and without rows that a change of an
//! endpoint would have to touch.

use std::time::Duration;

use devstack::testing::eventually;
use reqwest::{Method, StatusCode};
use schemas::records::{DeliveryOutcome, Event};
use serde_json::{Value, json};
use sqlx::Connection;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, PATIENCE, System, config};

/// Events that are stored for retries, and what `delivery_usage` says: rows and bytes.
async fn stored(system: &System) -> (i64, i64, i64) {
    let sql = "SELECT (SELECT count(*) FROM delivery_events), COALESCE(sum(open_rows), 0)::bigint,
                      COALESCE(sum(event_bytes), 0)::bigint FROM delivery_usage";
    sqlx::query_as(sql).fetch_one(&system.pool).await.unwrap()
}

async fn wait_for_stored(system: &System, what: &str, wanted: (i64, i64, i64)) {
    eventually(PATIENCE, what, || async { (stored(system).await == wanted).then_some(()) }).await;
}

fn big_event(system: &System) -> Event {
    Event { payload: Value::from("x".repeat(100_000)).to_string(), ..system.event("big") }
}

#[tokio::test]
async fn a_payload_is_stored_once_for_all_endpoints() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    for nth in 0..10 {
        let more = json!({"url": receiver.url_of(&nth.to_string()), "retry_schedule": [3600]});
        system.endpoint(&receiver, more).await;
    }
    let event = big_event(&system);
    system.publish(&event).await;
    wait_for_stored(&system, "ten deliveries share one payload", (1, 10, 100_002)).await;
    receiver.change(ReceiverBehavior::Status(200));
    system.make_all_due().await;
    receiver.wait_for(20).await;
    assert!(receiver.received().iter().all(|request| request.body.len() > 100_000));
    wait_for_stored(&system, "nothing is stored when all are delivered", (0, 0, 0)).await;
}

#[tokio::test]
async fn deliveries_beyond_the_limits_of_an_organization_fail_at_once() {
    let mut limited = config();
    limited.open_limits.rows = 5;
    let system = System::start_with(limited).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    system.endpoint(&receiver, json!({"retry_schedule": [3600]})).await;
    for _ in 0..5 {
        let event = system.event("within");
        system.publish(&event).await;
        system.wait_for_reports(event.event_id, 1).await;
    }
    wait_for_stored(&system, "five deliveries are open", (5, 5, 50)).await;
    let event = system.event("beyond");
    system.publish(&event).await;
    let reports = system.wait_for_reports(event.event_id, 2).await;
    assert_eq!((reports[0].outcome, reports[1].outcome), (DeliveryOutcome::Retrying, DeliveryOutcome::Failed));
    assert_eq!(reports[1].error.as_deref(), Some("the organization has too many open deliveries"));
    wait_for_stored(&system, "the refused one takes no room", (5, 5, 50)).await;
}

#[tokio::test]
async fn bytes_are_bounded_by_organization_too() {
    let mut limited = config();
    limited.open_limits.bytes = 150_000;
    let system = System::start_with(limited).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    system.endpoint(&receiver, json!({"retry_schedule": [3600]})).await;
    let events: Vec<Event> = (0..3).map(|_| big_event(&system)).collect();
    for event in &events {
        system.publish(event).await;
        system.wait_for_reports(event.event_id, 1).await;
        // Its row is committed with the position.
        wait_until_scheduled(&system, event).await;
    }
    let reports = system.wait_for_reports(events[2].event_id, 2).await;
    let reason = "the open deliveries of the organization take too much space";
    assert_eq!(reports[1].error.as_deref(), Some(reason));
    wait_for_stored(&system, "the refused payload is not stored", (2, 2, 200_004)).await;
}

async fn wait_until_scheduled(system: &System, event: &Event) {
    eventually(PATIENCE, "the delivery has a row", || async {
        let sql = "SELECT count(*) FROM delivery_schedule WHERE event_id = $1";
        let rows: i64 = sqlx::query_scalar(sql).bind(event.event_id.as_uuid()).fetch_one(&system.pool).await.unwrap();
        (rows > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_schedule_ends_after_its_time() {
    let mut brief = config();
    brief.max_retry_time = Duration::from_secs(3600);
    let system = System::start_with(brief).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let made = system.endpoint(&receiver, json!({"retry_schedule": [86400, 86400]})).await;
    let (old, held) = (system.event("old"), system.event("held"));
    let age = "UPDATE delivery_schedule SET created_at = now() - interval '2 hours'";
    system.publish(&old).await;
    wait_until_scheduled(&system, &old).await;
    sqlx::query(age).execute(&system.pool).await.unwrap();
    let reports = system.wait_for_reports(old.event_id, 2).await;
    assert_eq!(reports[1].error.as_deref(), Some("the time for retries is over"));

    system.publish(&held).await;
    wait_until_scheduled(&system, &held).await;
    system.change_endpoint(&made["id"], json!({"enabled": false})).await;
    system.make_all_due().await;
    system.wait_for_schedule("the row is held", |rows| rows.iter().any(|(state, ..)| state == "held")).await;
    sqlx::query(age).execute(&system.pool).await.unwrap();
    // A later schedule that ends shows that the held one was looked at.
    let other = system.endpoint(&receiver, json!({"url": receiver.url_of("other"), "retry_schedule": [86400]})).await;
    assert_eq!(other["enabled"], true);
    let later = system.event("later");
    system.publish(&later).await;
    wait_until_scheduled(&system, &later).await;
    sqlx::query(age).execute(&system.pool).await.unwrap();
    system.wait_for_reports(later.event_id, 2).await;
    assert_eq!(system.reports_of(held.event_id).len(), 1, "time stands still while the endpoint is disabled");
    receiver.change(ReceiverBehavior::Status(200));
    system.change_endpoint(&made["id"], json!({"enabled": true})).await;
    let reports = system.wait_for_reports(held.event_id, 2).await;
    assert_eq!(reports[1].outcome, DeliveryOutcome::Delivered, "enabling it gives its deliveries their time again");
}

#[tokio::test]
async fn a_held_delivery_ends_when_its_event_leaves_the_inbox() {
    let mut brief = config();
    brief.max_retry_time = Duration::from_secs(3600);
    let system = System::start_with(brief).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let made = system.endpoint(&receiver, json!({"retry_schedule": [86400]})).await;
    let event = system.event("a");
    system.publish(&event).await;
    wait_until_scheduled(&system, &event).await;
    system.change_endpoint(&made["id"], json!({"enabled": false})).await;
    system.make_all_due().await;
    system.wait_for_schedule("the row is held", |rows| rows.iter().any(|(state, ..)| state == "held")).await;
    for sql in [
        "UPDATE delivery_schedule SET created_at = now() - interval '2 hours'",
        "UPDATE retention_floor SET floor = now() + interval '1 minute'",
    ] {
        assert_eq!(sqlx::query(sql).execute(&system.pool).await.unwrap().rows_affected(), 1);
    }
    let reports = system.wait_for_reports(event.event_id, 2).await;
    let seen = (reports[1].outcome, reports[1].error.as_deref());
    assert_eq!(seen, (DeliveryOutcome::Failed, Some("the event is older than the retention period")));
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn changing_an_endpoint_touches_no_row_of_its_deliveries() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let made = system.endpoint(&receiver, json!({"retry_schedule": [3600]})).await;
    let ids = system.publish_many(20).await;
    system.wait_for_schedule("all are scheduled", |rows| rows.len() == ids.len()).await;
    let mut other = sqlx::PgConnection::connect(&system.database_url()).await.unwrap();
    let mut locked = other.begin().await.unwrap();
    sqlx::query("SELECT FROM delivery_schedule FOR UPDATE").execute(&mut *locked).await.unwrap();
    let path = format!("/endpoints/{}", made["id"].as_str().unwrap());
    for body in [json!({"enabled": false}), json!({"enabled": true})] {
        let answer = system.call(Method::PATCH, &path, KEY, Some(body)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    let answer = system.call(Method::DELETE, &path, KEY, None).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.body);
    locked.rollback().await.unwrap();
    for id in &ids {
        let reports = system.wait_for_reports(id.parse().unwrap(), 2).await;
        assert_eq!(reports[1].error.as_deref(), Some("the endpoint was deleted"));
    }
    wait_for_stored(&system, "nothing is left", (0, 0, 0)).await;
}
