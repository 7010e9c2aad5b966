//! A stalled consumer, and deliveries that were scheduled in an older log epoch.

use std::time::Duration;

use devstack::testing::eventually;
use kafka::fence::repair;
use serde_json::json;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{PATIENCE, System, config};

#[tokio::test]
async fn a_stalled_consumer_is_restarted_and_delivers() {
    let mut system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({"event_types": ["last"]})).await;
    system.publish_many(2_000).await;
    // With more than a hundred records in its queue, this client fetches nothing for five minutes.
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    system.kafka.properties =
        vec![property("queued.min.messages", "100"), property("fetch.queue.backoff.ms", "300000")];
    let mut impatient = config();
    impatient.stall_after = Duration::from_secs(2);
    system.start_dispatcher(impatient);
    let first = system.publish(&system.event("last")).await;
    system.wait_until_passed(&first).await;
    let second = system.publish(&system.event("last")).await;
    system.wait_until_passed(&second).await;
    assert_eq!(receiver.received().len(), 2);
    assert!(receiver.counts().values().all(|count| *count == 1));
}

/// Starts the next log epoch of a partition as `positions repair` does, and moves these consumers to an offset.
async fn next_log_epoch(system: &System, partition: i32, moved: &[&str], to: i64) {
    let stored = repair::positions(&system.pool).await.unwrap();
    let is_meant = |position: &&repair::StoredPosition| {
        position.partition == partition && moved.contains(&position.consumer.as_str())
    };
    let moved: Vec<_> = stored.iter().filter(is_meant).collect();
    assert!(!moved.is_empty());
    let topic = system.kafka.topics.events.clone();
    repair::repair(&system.pool, &topic, partition, &moved, to, repair::LogChange::NewLog, None)
        .await
        .unwrap()
        .unwrap();
}

async fn claimed_again(system: &System, than: i64) {
    eventually(PATIENCE, "the dispatcher claims its partitions again", || async {
        (system.epoch().await > than).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_waiting_event_is_sent_once_over_a_new_log_epoch() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let (shown, twice, never) = (system.keyed_event("shown"), system.keyed_event("twice"), system.keyed_event("never"));
    let shown_at = system.publish(&shown).await;
    for _ in 0..2 {
        system.publish(&twice).await;
    }
    let never_at = system.publish(&never).await;
    sqlx::query(
        "INSERT INTO consumer_positions (consumer, topic, partition, next_offset) VALUES ('materializer', $1, $2, 0)",
    )
    .bind(&system.kafka.topics.events)
    .bind(shown_at.partition)
    .execute(&system.pool)
    .await
    .unwrap();
    system.wait_for_awaiting(4).await;
    system.wait_until_passed(&never_at).await;
    let epoch = system.epoch().await;
    // As after a truncation: the materializer continues in the same log, before these records.
    next_log_epoch(&system, shown_at.partition, &["materializer"], shown_at.offset).await;
    claimed_again(&system, epoch + 1).await;
    // Several polls of the schedule, about one a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    system.wait_for_awaiting(4).await;
    system.show(&shown, &shown_at, false).await;
    // The view shows a third record of the event, from the newer log epoch.
    let third = system.publish(&twice).await;
    system.wait_until_passed(&third).await;
    system.show(&twice, &third, false).await;
    system.pass_view(&third).await;
    receiver.wait_for_ids(&[shown.event_id.to_string(), twice.event_id.to_string()]).await;
    system
        .wait_for_schedule("the rows of the older records are dropped, one still waits", |rows| {
            rows.iter().filter(|(state, ..)| state == "awaiting_dedup").count() == 1
        })
        .await;
    // The view applies a younger record and does not have the other event, so it will never have it.
    let apply =
        "UPDATE consumer_positions SET record_time = now() + interval '1 second' WHERE consumer = 'materializer'";
    sqlx::query(apply).execute(&system.pool).await.unwrap();
    system
        .wait_for_schedule("the other one is dropped", |rows| rows.iter().all(|(state, ..)| state != "awaiting_dedup"))
        .await;
    assert_eq!((receiver.received().len(), receiver.counts().len()), (2, 2));
}

#[tokio::test]
async fn a_keyed_event_waits_for_the_view_in_its_own_log_epoch() {
    let mut system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let first = system.publish(&system.keyed_event("first")).await;
    system.wait_for_schedule("the delivery waits", |rows| rows.len() == 1).await;
    system.shut_down().await;
    // The materializer is far ahead in the old log; the dispatcher is in the new log already.
    let insert = "INSERT INTO consumer_positions (consumer, topic, partition, next_offset)
                 VALUES ('materializer', $1, $2, 1000)";
    sqlx::query(insert).bind(&system.kafka.topics.events).bind(first.partition).execute(&system.pool).await.unwrap();
    sqlx::query("UPDATE consumer_positions SET log_epoch = 2 WHERE consumer = 'dispatcher'")
        .execute(&system.pool)
        .await
        .unwrap();
    sqlx::query("DELETE FROM deliveries_awaiting_dedup").execute(&system.pool).await.unwrap();
    system.start_dispatcher(config());
    let event = system.keyed_event("second");
    let appended = system.publish(&event).await;
    system.wait_for_schedule("the delivery waits", |rows| rows.len() == 1 && rows[0].0 == "awaiting_dedup").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(system.schedule().await[0].0, "awaiting_dedup");
    sqlx::query("UPDATE consumer_positions SET log_epoch = 2, next_offset = 0 WHERE consumer = 'materializer'")
        .execute(&system.pool)
        .await
        .unwrap();
    system.show(&event, &appended, false).await;
    system.pass_view(&appended).await;
    receiver.wait_for_ids(&[event.event_id.to_string()]).await;
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_new_log_epoch_starts_no_scheduled_delivery_again() {
    let mut patient = config();
    // One attempt in flight stops the position; nothing is spilled by age.
    patient.spill_after = Duration::from_secs(60);
    let system = System::start_with(patient).await;
    let hanging = Receiver::start(ReceiverBehavior::Hang).await;
    let (failing, recovering) = (
        Receiver::start(ReceiverBehavior::Status(500)).await,
        Receiver::start(ReceiverBehavior::Turns(vec![500, 200])).await,
    );
    system.endpoint(&hanging, json!({"event_types": ["hang"], "timeout_seconds": 30})).await;
    system.endpoint(&failing, json!({"event_types": ["fail"], "retry_schedule": [3600]})).await;
    system.endpoint(&recovering, json!({"event_types": ["recover"], "retry_schedule": [1]})).await;
    let held = system.publish(&system.event("hang")).await;
    system.publish(&system.event("fail")).await;
    let last = system.publish(&system.event("recover")).await;
    let is = |rows: &[(String, i32, bool)], wanted: &str| rows.iter().any(|(state, ..)| state == wanted);
    system
        .wait_for_schedule("one waits, one is finished", |rows| {
            rows.len() == 2 && is(rows, "pending") && is(rows, "delivered")
        })
        .await;
    sqlx::query(
        "INSERT INTO consumer_positions (consumer, topic, partition, next_offset) VALUES ('materializer', $1, $2, 0)",
    )
    .bind(&system.kafka.topics.events)
    .bind(held.partition)
    .execute(&system.pool)
    .await
    .unwrap();
    let epoch = system.epoch().await;
    hanging.change(ReceiverBehavior::Status(200));
    next_log_epoch(&system, held.partition, &["materializer"], 0).await;
    claimed_again(&system, epoch + 1).await;
    system.wait_until_passed(&last).await;
    assert_eq!((failing.received().len(), recovering.received().len()), (1, 2), "neither was sent again");
}
