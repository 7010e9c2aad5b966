//! Events that may be duplicates wait for the duplicate decision of the view.

use kafka::producer::Appended;
use reqwest::{Method, StatusCode};
use schemas::ids::{DeliveryId, EndpointId};
use schemas::records::{DeliveryOutcome, Event};
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, PARTITIONS, System};

async fn decide_duplicate(system: &System, duplicate: &Event, original: &Event) {
    sqlx::query(
        "INSERT INTO event_ids (org_id, event_id, canonical_id, log_epoch, log_partition, log_offset, newest_at)
         VALUES ($1, $2, $3, 1, 0, 0, now())",
    )
    .bind(duplicate.org_id.as_uuid())
    .bind(duplicate.event_id.as_uuid())
    .bind(original.event_id.as_uuid())
    .execute(&system.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_duplicate_is_not_delivered_and_its_original_is() {
    let mut config = crate::system::config();
    // The decision comes in time, even on a slow machine.
    config.spill_after = std::time::Duration::from_secs(20);
    let system = System::start_with(config).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let (original, duplicate, erased) = (system.keyed_event("k"), system.keyed_event("k"), system.keyed_event("x"));
    let appended = system.publish(&original).await;
    system.publish(&duplicate).await;
    let last = system.publish(&erased).await;
    // This event does not wait for a decision.
    let plain = system.event("plain");
    system.publish(&plain).await;
    receiver.wait_for_ids(&[plain.event_id.to_string()]).await;
    assert_eq!(receiver.received().len(), 1);

    system.show(&original, &appended, false).await;
    decide_duplicate(&system, &duplicate, &original).await;
    system.pass_view(&last).await;
    receiver.wait_for_ids(&[original.event_id.to_string()]).await;
    system.wait_until_passed(&last).await;
    assert_eq!(receiver.received().len(), 2);
    assert_eq!(system.schedule().await, []);
}

#[tokio::test]
async fn a_late_duplicate_decision_does_not_delay_the_position() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let (original, duplicate, dropped) = (system.keyed_event("k"), system.keyed_event("k"), system.keyed_event("old"));
    let appended = system.publish(&original).await;
    system.publish(&duplicate).await;
    let last = system.publish(&dropped).await;
    // Without any decision, the position advances.
    system.wait_until_passed(&last).await;
    system.wait_for_awaiting(3).await;
    assert_eq!(receiver.received().len(), 0);

    // The view has dropped the third event by retention.
    system.show(&original, &appended, false).await;
    decide_duplicate(&system, &duplicate, &original).await;
    system.pass_view(&last).await;
    let report = system.wait_for_reports(original.event_id, 1).await.remove(0);
    assert_eq!((report.outcome, report.attempt), (DeliveryOutcome::Delivered, 1));
    system.wait_for_schedule("all rows are finished and swept", |rows| rows.is_empty()).await;
    assert_eq!(receiver.counts().keys().collect::<Vec<_>>(), [&original.event_id.to_string()]);
    assert_eq!([system.reports_of(duplicate.event_id), system.reports_of(dropped.event_id)], [[], []]);
}

#[tokio::test]
async fn an_event_acknowledged_before_its_decision_is_delivered() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let event = system.keyed_event("k");
    let appended = system.publish(&event).await;
    system.wait_until_passed(&appended).await;
    assert_eq!(system.schedule().await.len(), 1, "the delivery waits");
    system.show(&event, &appended, true).await;
    system.pass_view(&appended).await;
    let report = system.wait_for_reports(event.event_id, 1).await.remove(0);
    assert_eq!((report.outcome, report.attempt), (DeliveryOutcome::Delivered, 1));
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_second_record_of_an_event_id_is_not_delivered() {
    let mut config = crate::system::config();
    config.spill_after = std::time::Duration::from_secs(20);
    let system = System::start_with(config).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    // A native producer with event ids of its own sends one twice; another record was redriven from its dead letter.
    let (resent, redriven) = (system.event("resent"), system.event("redriven"));
    let key_id = ("triggers-key-id", &b"0192f0c1-2345-7abc-8def-0123456789ab"[..]);
    let origin: [(&str, &[u8]); 5] = [
        key_id,
        ("triggers-origin-topic", b"triggers.events.v1"),
        ("triggers-origin-partition", b"0"),
        ("triggers-origin-offset", b"0"),
        ("triggers-origin-timestamp", b"0"),
    ];
    let first = system.publish_with(&resent, &[]).await;
    system.publish_with(&resent, &[]).await;
    let redriven_at = system.publish_with(&redriven, &origin).await;
    let last = system.publish_with(&redriven, &origin).await;
    let plain = system.event("plain");
    system.publish(&plain).await;
    receiver.wait_for_ids(&[plain.event_id.to_string()]).await;
    assert_eq!(receiver.received().len(), 1, "the others wait for the view");

    system.show(&resent, &first, false).await;
    system.show(&redriven, &redriven_at, false).await;
    system.pass_view(&last).await;
    receiver.wait_for_ids(&[resent.event_id.to_string(), redriven.event_id.to_string()]).await;
    system.wait_until_passed(&last).await;
    assert_eq!(receiver.received().len(), 3);
    assert_eq!(system.schedule().await, []);
}

#[tokio::test]
async fn one_of_two_waiting_records_of_an_event_is_delivered() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let event = system.event("twice");
    let first = system.publish_with(&event, &[]).await;
    system.wait_until_passed(&first).await;
    let second = system.publish_with(&event, &[]).await;
    system.wait_until_passed(&second).await;
    system.wait_for_awaiting(2).await;

    system.show(&event, &first, false).await;
    system.pass_view(&second).await;
    system.wait_for_reports(event.event_id, 1).await;
    system.wait_for_schedule("the row is finished and swept", |rows| rows.is_empty()).await;

    let third = system.publish_with(&event, &[]).await;
    system.wait_until_passed(&third).await;
    system.pass_view(&third).await;
    system.wait_for_schedule("the third is dropped and swept", |rows| rows.is_empty()).await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(system.reports_of(event.event_id).len(), 1);
}

#[tokio::test]
async fn waiting_copies_are_dropped_if_an_earlier_one_is_shown() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let event = system.event("copies");
    let first = system.publish_with(&event, &[]).await;
    system.show(&event, &first, false).await;
    system.pass_view(&first).await;
    system.wait_for_reports(event.event_id, 1).await;
    system.wait_until_passed(&first).await;
    // Two copies in the same partition and one in another.
    let mut last = system.publish_with(&event, &[]).await;
    for _ in 0..2 {
        system.wait_until_passed(&last).await;
        last = system.publish_to(&event, first.partition).await;
    }
    let same_partition = last;
    let last = system.publish_to(&event, (first.partition + 1) % PARTITIONS).await;
    system.wait_until_passed(&same_partition).await;
    system.wait_until_passed(&last).await;
    system.wait_for_awaiting(4).await;
    system.pass_view(&same_partition).await;
    system.pass_view(&last).await;
    system.wait_for_schedule("the copies are dropped and swept", |rows| rows.is_empty()).await;
    assert_eq!((receiver.received().len(), system.reports_of(event.event_id).len()), (1, 1));
}

#[tokio::test]
async fn a_waiting_copy_does_not_cover_the_first_record() {
    let mut patient = crate::system::config();
    // The attempt in flight stops the position; nothing is spilled by age.
    patient.spill_after = std::time::Duration::from_secs(60);
    let mut system = System::start_with(patient.clone()).await;
    let receiver = Receiver::start(ReceiverBehavior::Hang).await;
    system.endpoint(&receiver, json!({"timeout_seconds": 30, "max_in_flight": 1})).await;
    let event = system.event("twice");
    let id = event.event_id.to_string();
    let first = system.publish_with(&event, &[]).await;
    system.show(&event, &first, false).await;
    system.pass_view(&first).await;
    receiver.wait_for_ids(std::slice::from_ref(&id)).await;
    // The ledger is full with these, so the next record is spilled at once.
    let large = format!("\"{}\"", "x".repeat(250_000));
    let mut ids = vec![id.clone()];
    for _ in 0..140 {
        let filling = Event { payload: large.clone(), ..system.event("filling") };
        system.publish(&filling).await;
        ids.push(filling.event_id.to_string());
    }
    let second = system.publish_with(&event, &[]).await;
    system
        .wait_for_schedule("the second record is scheduled", |rows| {
            rows.iter().any(|(state, ..)| state == "awaiting_dedup")
        })
        .await;
    system.crash().await;
    assert_eq!(receiver.received().len(), 1);

    receiver.change(ReceiverBehavior::Status(200));
    system.start_dispatcher(patient);
    system.pass_view(&second).await;
    receiver.wait_for_ids(&ids).await;
    system.wait_until_passed(&second).await;
    system.wait_for_schedule("all is delivered, and the second record dropped", |rows| rows.is_empty()).await;
    assert_eq!(receiver.counts()[&id], 2, "the attempt that the crash interrupted, and one more");
    assert_eq!(system.reports_of(event.event_id).len(), 1);
}

#[tokio::test]
async fn either_record_of_an_event_can_be_the_original() {
    for shown in [0, 1] {
        let mut system = System::without_dispatcher().await;
        let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
        let endpoint = id_of(&system.endpoint(&receiver, json!({})).await);
        let event = system.event("twice");
        let records = [system.publish_with(&event, &[]).await, system.publish_with(&event, &[]).await];
        // As left by a dispatcher that was killed before it finished the first record.
        insert_awaiting(&system, endpoint, &event, &records[1]).await;
        system.start_dispatcher(crate::system::config());
        system.wait_until_passed(&records[1]).await;
        system.wait_for_awaiting(2).await;
        system.show(&event, &records[shown], false).await;
        system.pass_view(&records[1]).await;
        system.wait_for_reports(event.event_id, 1).await;
        system.wait_for_schedule("the rows are finished and swept", |rows| rows.is_empty()).await;
        assert_eq!(receiver.received().len(), 1, "the view shows record {shown}");
    }
}

#[tokio::test]
async fn a_waiting_row_covers_its_record_when_it_is_read_again() {
    // The records are read again in the same log epoch, and in the next one.
    for log_epoch in [1, 2] {
        let mut system = System::without_dispatcher().await;
        let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
        let endpoint = id_of(&system.endpoint(&receiver, json!({})).await);
        let mut ids = Vec::new();
        for _ in 0..20 {
            let event = system.keyed_event("k");
            let appended = system.publish(&event).await;
            // A killed dispatcher left these ahead of its position. The view has applied them by now.
            insert_awaiting(&system, endpoint, &event, &appended).await;
            system.show(&event, &appended, false).await;
            system.pass_view(&appended).await;
            ids.push(event.event_id.to_string());
        }
        sqlx::query("UPDATE consumer_positions SET log_epoch = $1")
            .bind(log_epoch)
            .execute(&system.pool)
            .await
            .unwrap();
        system.start_dispatcher(crate::system::config());
        receiver.wait_for_ids(&ids).await;
        let last = system.publish(&system.event("last")).await;
        system.wait_until_passed(&last).await;
        system
            .wait_for_schedule("no delivery is open", |rows| rows.iter().all(|(state, ..)| state == "delivered"))
            .await;
        assert_eq!(receiver.received().len(), 21, "each event is sent once in log epoch {log_epoch}");
    }
}

#[tokio::test]
async fn an_endpoint_deleted_or_disabled_while_rows_wait_gets_nothing() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let deleted = system.endpoint(&receiver, json!({"event_types": ["keyed"]})).await;
    let disabled = system.endpoint(&receiver, json!({"event_types": ["keyed"]})).await;
    let event = system.keyed_event("k");
    let appended = system.publish(&event).await;
    system.wait_until_passed(&appended).await;
    system.wait_for_awaiting(2).await;
    let path = format!("/endpoints/{}", id_of(&deleted));
    assert_eq!(system.call(Method::DELETE, &path, KEY, None).await.status, StatusCode::NO_CONTENT);
    system.change_endpoint(&disabled["id"], json!({"enabled": false})).await;

    system.show(&event, &appended, false).await;
    system.pass_view(&appended).await;
    system.wait_for_schedule("the disabled one is held", |rows| rows == [("held".to_owned(), 0, false)]).await;
    let cancelled = system.wait_for_reports(event.event_id, 1).await.remove(0);
    assert_eq!((cancelled.endpoint_id, cancelled.outcome), (id_of(&deleted), DeliveryOutcome::Cancelled));
    assert_eq!(receiver.received().len(), 0);
    system.change_endpoint(&disabled["id"], json!({"enabled": true})).await;
    system.wait_for_schedule("the held row is delivered and swept", |rows| rows.is_empty()).await;
    assert_eq!(receiver.received().len(), 1);
}

/// Writes the row of a delivery that waits for the duplicate decision.
async fn insert_awaiting(system: &System, endpoint: EndpointId, event: &Event, appended: &Appended) {
    sqlx::query(
        "INSERT INTO deliveries_awaiting_dedup (endpoint_id, log_epoch, log_partition, log_offset, delivery_id,
                                                org_id, event_id, event_type, accepted_at)
         VALUES ($1, 1, $2, $3, $4, $5, $6, $7, now())",
    )
    .bind(endpoint.as_uuid())
    .bind(appended.partition)
    .bind(appended.offset)
    .bind(DeliveryId::of(endpoint, event.event_id).as_uuid())
    .bind(event.org_id.as_uuid())
    .bind(event.event_id.as_uuid())
    .bind(&event.event_type)
    .execute(&system.pool)
    .await
    .unwrap();
}

fn id_of(endpoint: &Value) -> EndpointId {
    endpoint["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_record_is_not_sent_while_its_row_awaits_the_decision() {
    let mut system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let event = system.keyed_event("k");
    let appended = system.publish(&event).await;
    system.wait_until_passed(&appended).await;
    system.wait_for_awaiting(1).await;
    system.shut_down().await;
    // As when an unfinished record before it had held the position back.
    sqlx::query("UPDATE consumer_positions SET next_offset = $1 WHERE consumer = 'dispatcher' AND partition = $2")
        .bind(appended.offset)
        .bind(appended.partition)
        .execute(&system.pool)
        .await
        .unwrap();
    let later = system.event("later");
    let after = system.publish(&later).await;
    assert_eq!(after.partition, appended.partition);
    let mut patient = crate::system::config();
    patient.spill_after = std::time::Duration::from_secs(20);
    system.start_dispatcher(patient);
    // The record before it has been read: without the row it would wait in memory for the decision, too.
    receiver.wait_for_ids(&[later.event_id.to_string()]).await;
    system.show(&event, &appended, false).await;
    system.pass_view(&appended).await;
    receiver.wait_for_ids(&[event.event_id.to_string()]).await;
    system.wait_until_passed(&after).await;
    system.wait_for_schedule("nothing waits any more", |rows| rows.is_empty()).await;
    assert_eq!(receiver.counts()[&event.event_id.to_string()], 1, "the row and the record are one delivery");
}
