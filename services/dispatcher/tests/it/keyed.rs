//! Events that may be duplicates: the view decides first.

use schemas::ids::{DeliveryId, EndpointId};
use schemas::records::DeliveryOutcome;
use serde_json::json;

use crate::receiver::{Manner, Receiver};
use crate::system::{PARTITIONS, System};

async fn judge(system: &System, duplicate: &schemas::records::Event, original: &schemas::records::Event) {
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
    // The verdict comes in time here, however slow the machine is.
    config.spill_after = std::time::Duration::from_secs(20);
    let system = System::start_with(config).await;
    let receiver = Receiver::start(Manner::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let (original, duplicate, erased) = (system.keyed_event("k"), system.keyed_event("k"), system.keyed_event("x"));
    let appended = system.publish(&original).await;
    system.publish(&duplicate).await;
    let last = system.publish(&erased).await;
    // Another key, another partition perhaps: this one waits for nobody.
    let plain = system.event("plain");
    system.publish(&plain).await;
    receiver.wait_for_ids(&[plain.event_id.to_string()]).await;
    assert_eq!(receiver.received().len(), 1);

    system.show(&original, &appended, false).await;
    judge(&system, &duplicate, &original).await;
    system.pass_view(&last).await;
    receiver.wait_for_ids(&[original.event_id.to_string()]).await;
    system.wait_until_passed(&last).await;
    assert_eq!(receiver.received().len(), 2);
    assert_eq!(system.schedule().await, []);
}

#[tokio::test]
async fn an_open_verdict_holds_nothing_back_and_is_decided_when_the_view_has_passed() {
    let system = System::start().await;
    let receiver = Receiver::start(Manner::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let (original, duplicate) = (system.keyed_event("k"), system.keyed_event("k"));
    let appended = system.publish(&original).await;
    let last = system.publish(&duplicate).await;
    // The view says nothing at all, and the position goes on.
    system.wait_until_passed(&last).await;
    let waiting = ("awaiting_verdict".to_owned(), 0, false);
    assert_eq!(system.schedule().await, [waiting.clone(), waiting]);
    assert_eq!(receiver.received().len(), 0);

    system.show(&original, &appended, false).await;
    judge(&system, &duplicate, &original).await;
    system.pass_view(&last).await;
    let report = system.wait_for_reports(original.event_id, 1).await.remove(0);
    assert_eq!((report.outcome, report.attempt), (DeliveryOutcome::Delivered, 1));
    system.wait_for_schedule("both rows are finished and swept", |rows| rows.is_empty()).await;
    assert_eq!(receiver.counts().keys().collect::<Vec<_>>(), [&original.event_id.to_string()]);
    assert_eq!(system.reports_of(duplicate.event_id), []);
}

#[tokio::test]
async fn an_event_that_is_acknowledged_before_its_verdict_is_delivered_all_the_same() {
    let system = System::start().await;
    let receiver = Receiver::start(Manner::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let event = system.keyed_event("k");
    let appended = system.publish(&event).await;
    system.wait_until_passed(&appended).await;
    assert_eq!(system.schedule().await.len(), 1, "it waits");
    system.show(&event, &appended, true).await;
    system.pass_view(&appended).await;
    let report = system.wait_for_reports(event.event_id, 1).await.remove(0);
    assert_eq!((report.outcome, report.attempt), (DeliveryOutcome::Delivered, 1));
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_record_whose_event_id_another_one_has_is_not_delivered() {
    let mut config = crate::system::config();
    config.spill_after = std::time::Duration::from_secs(20);
    let system = System::start_with(config).await;
    let receiver = Receiver::start(Manner::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    // A native producer that names its events and sends one again; and one that was written again from its dead letter.
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
    let written_again = system.publish_with(&redriven, &origin).await;
    let last = system.publish_with(&redriven, &origin).await;
    let plain = system.event("plain");
    system.publish(&plain).await;
    receiver.wait_for_ids(&[plain.event_id.to_string()]).await;
    assert_eq!(receiver.received().len(), 1, "the others wait for the view");

    system.show(&resent, &first, false).await;
    system.show(&redriven, &written_again, false).await;
    system.pass_view(&last).await;
    receiver.wait_for_ids(&[resent.event_id.to_string(), redriven.event_id.to_string()]).await;
    system.wait_until_passed(&last).await;
    assert_eq!(receiver.received().len(), 3);
    assert_eq!(system.schedule().await, []);
}

#[tokio::test]
async fn of_two_places_of_one_event_one_is_delivered_also_when_both_are_spilled_or_come_one_after_the_other() {
    let system = System::start().await;
    let receiver = Receiver::start(Manner::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let event = system.event("twice");
    let first = system.publish_with(&event, &[]).await;
    system.wait_until_passed(&first).await;
    let second = system.publish_with(&event, &[]).await;
    system.wait_until_passed(&second).await;
    assert_eq!(system.schedule().await, [("awaiting_verdict".to_owned(), 0, false)]);

    // The view shows the place that did not make the row.
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
async fn copies_that_wait_together_are_not_delivered_when_the_view_shows_one_that_was_before() {
    let system = System::start().await;
    let receiver = Receiver::start(Manner::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let event = system.event("again and again");
    let first = system.publish_with(&event, &[]).await;
    system.show(&event, &first, false).await;
    system.pass_view(&first).await;
    system.wait_for_reports(event.event_id, 1).await;
    system.wait_until_passed(&first).await;
    // In one statement and in two, of one partition and of another one.
    let mut last = system.publish_with(&event, &[]).await;
    for partition in [first.partition, first.partition, (first.partition + 1) % PARTITIONS] {
        system.wait_until_passed(&last).await;
        last = system.publish_to(&event, partition).await;
    }
    system.wait_until_passed(&last).await;
    system
        .wait_for_schedule("one row waits", |rows| rows.iter().map(|(state, ..)| state).eq(["awaiting_verdict"]))
        .await;
    system.pass_view(&last).await;
    system.wait_for_schedule("they are dropped and swept", |rows| rows.is_empty()).await;
    assert_eq!((receiver.received().len(), system.reports_of(event.event_id).len()), (1, 1));
}

#[tokio::test]
async fn an_event_whose_second_place_is_scheduled_is_delivered_from_its_first_after_a_crash() {
    let mut patient = crate::system::config();
    // The position is held by the attempt under way; nothing grows old.
    patient.spill_after = std::time::Duration::from_secs(60);
    let mut system = System::start_with(patient.clone()).await;
    let receiver = Receiver::start(Manner::Hang).await;
    system.endpoint(&receiver, json!({"timeout_seconds": 30, "max_in_flight": 1})).await;
    let event = system.event("twice");
    let id = event.event_id.to_string();
    let first = system.publish_with(&event, &[]).await;
    system.show(&event, &first, false).await;
    system.pass_view(&first).await;
    receiver.wait_for_ids(std::slice::from_ref(&id)).await;
    // More than is kept open, so what comes next is scheduled at once.
    let large = format!("\"{}\"", "x".repeat(250_000));
    let mut ids = vec![id.clone()];
    for _ in 0..140 {
        let filling = schemas::records::Event { payload: large.clone(), ..system.event("filling") };
        system.publish(&filling).await;
        ids.push(filling.event_id.to_string());
    }
    let second = system.publish_with(&event, &[]).await;
    system
        .wait_for_schedule("the second place is scheduled", |rows| {
            rows.iter().any(|(state, ..)| state == "awaiting_verdict")
        })
        .await;
    system.crash().await;
    assert_eq!(receiver.received().len(), 1);

    receiver.change(Manner::Status(200));
    system.start_dispatcher(patient);
    system.pass_view(&second).await;
    receiver.wait_for_ids(&ids).await;
    system.wait_until_passed(&second).await;
    system.wait_for_schedule("all is delivered, and the second place dropped", |rows| rows.is_empty()).await;
    assert_eq!(receiver.counts()[&id], 2, "the attempt that the crash cut off, and one more");
    assert_eq!(system.reports_of(event.event_id).len(), 1);
}

#[tokio::test]
async fn a_first_place_that_is_scheduled_after_the_second_is_decided_together_with_it() {
    for shown in [0, 1] {
        let mut system = System::without_dispatcher().await;
        let receiver = Receiver::start(Manner::Status(200)).await;
        let endpoint: EndpointId = system.endpoint(&receiver, json!({})).await["id"].as_str().unwrap().parse().unwrap();
        let event = system.event("twice");
        let places = [system.publish_with(&event, &[]).await, system.publish_with(&event, &[]).await];
        // As a dispatcher left it that was killed before it was done with the first.
        sqlx::query(
            "INSERT INTO delivery_schedule (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, payload, log_epoch,
                                            log_partition, log_offset, state, due_at)
             VALUES ($1, $2, $3, $4, 'twice', now(), '1', 1, $5, $6, 'awaiting_verdict', now())",
        )
        .bind(DeliveryId::of(endpoint, event.event_id).as_uuid())
        .bind(event.org_id.as_uuid())
        .bind(event.event_id.as_uuid())
        .bind(endpoint.as_uuid())
        .bind(places[1].partition)
        .bind(places[1].offset)
        .execute(&system.pool)
        .await
        .unwrap();
        system.start_dispatcher(crate::system::config());
        system.wait_until_passed(&places[1]).await;
        let rows: Vec<(String, bool, i64)> =
            sqlx::query_as("SELECT state, places IS NOT NULL, log_offset FROM delivery_schedule")
                .fetch_all(&system.pool)
                .await
                .unwrap();
        assert_eq!(
            rows,
            [("awaiting_verdict".to_owned(), true, places[1].offset)],
            "it waits for the view to have passed both"
        );
        system.show(&event, &places[shown], false).await;
        system.pass_view(&places[1]).await;
        system.wait_for_reports(event.event_id, 1).await;
        system.wait_for_schedule("the row is finished and swept", |rows| rows.is_empty()).await;
        assert_eq!(receiver.received().len(), 1, "shown from place {shown}");
    }
}
