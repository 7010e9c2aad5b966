//! Events that may be duplicates: the view decides first.

use schemas::records::DeliveryOutcome;
use serde_json::json;

use crate::receiver::{Manner, Receiver};
use crate::system::System;

async fn judge(system: &System, duplicate: &schemas::records::Event, original: &schemas::records::Event) {
    sqlx::query(
        "INSERT INTO verdicts (org_id, event_id, original_id, log_epoch, log_partition, log_offset, accepted_at)
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
