//! Crash, shutdown, two instances, a fenced instance, a broken database.

use std::time::Duration;

use devstack::testing::eventually;
use serde_json::json;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{PATIENCE, System, config};

#[tokio::test]
async fn a_crash_loses_no_event_and_keeps_the_schedule() {
    let mut system = System::start().await;
    let hanging = Receiver::start(ReceiverBehavior::Hang).await;
    let failing = Receiver::start(ReceiverBehavior::Status(500)).await;
    let fine = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&hanging, json!({"timeout_seconds": 12, "max_in_flight": 4})).await;
    system.endpoint(&failing, json!({"retry_schedule": [3600]})).await;
    system.endpoint(&fine, json!({})).await;
    let before = system.publish_many(50).await;
    fine.wait_for_ids(&before).await;
    system.wait_for_schedule("hanging and failed deliveries are scheduled", |rows| rows.len() == 100).await;
    let between = system.publish_many(50).await;
    // The crash comes in the middle of these.
    fine.wait_for(60).await;
    system.crash().await;
    let after = system.publish_many(50).await;
    system.start_dispatcher(config());

    let all: Vec<String> = [before.clone(), between, after].concat();
    fine.wait_for_ids(&all).await;
    failing.wait_for_ids(&all).await;
    system.wait_for_schedule("all undelivered events are scheduled", |rows| rows.len() == 300).await;
    let counts = failing.counts();
    assert!(before.iter().all(|id| counts[id] == 1), "a scheduled delivery is not started again");
    // The test does not wait for the leases of the crashed instance.
    hanging.change(ReceiverBehavior::Status(200));
    failing.change(ReceiverBehavior::Status(200));
    system.make_all_due().await;
    hanging.wait_for_ids(&all).await;
    eventually(PATIENCE, "every retry is made", || async {
        failing.counts().values().all(|count| *count >= 2).then_some(())
    })
    .await;
    // Attempts of the new instance that hang last until their timeout.
    system.wait_for_schedule("only hanging deliveries are left", |rows| rows.len() <= 4).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_attempts_in_flight() {
    let mut system = System::start().await;
    let slow = Receiver::start(ReceiverBehavior::Slow(Duration::from_millis(400))).await;
    system.endpoint(&slow, json!({"max_in_flight": 5})).await;
    let mut ids = system.publish_many(40).await;
    slow.wait_for(3).await;
    system.shut_down().await;
    ids.extend(system.publish_many(5).await);
    system.start_dispatcher(config());
    slow.wait_for_ids(&ids).await;
    system.wait_for_schedule("all is delivered", |rows| rows.is_empty()).await;
    assert_eq!(slow.received().len(), ids.len(), "nothing is sent twice");
}

#[tokio::test]
async fn a_shutdown_writes_open_deliveries_to_the_schedule() {
    let mut impatient = config();
    impatient.spill_after = Duration::from_secs(60);
    impatient.drain = Duration::from_millis(100);
    let mut system = System::start_with(impatient).await;
    let hanging = Receiver::start(ReceiverBehavior::Hang).await;
    system.endpoint(&hanging, json!({"timeout_seconds": 30, "max_in_flight": 1})).await;
    let ids = system.publish_many(3).await;
    hanging.wait_for(1).await;
    let last = system.publish(&system.event("last")).await;
    system.shut_down().await;
    let rows = system.schedule().await;
    assert_eq!(rows.iter().filter(|(.., leased)| *leased).count(), 1, "the attempt in flight has a lease");
    hanging.change(ReceiverBehavior::Status(200));
    system.start_dispatcher(config());
    system.wait_until_passed(&last).await;
    system.wait_for_schedule("only the lease is left", |rows| matches!(rows, [(_, 0, true)])).await;
    assert_eq!(hanging.received().len(), 4);
    let leased = hanging.received()[0].header("webhook-id").to_owned();
    assert!(ids.contains(&leased) && hanging.counts()[&leased] == 1);
    system.make_all_due().await;
    system.wait_for_schedule("all is delivered", |rows| rows.is_empty()).await;
    assert_eq!((hanging.counts()[&leased], hanging.received().len()), (2, 5));
}

#[tokio::test]
async fn no_event_is_lost_when_partitions_move_between_instances() {
    let mut system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let mut ids = system.publish_many(20).await;
    receiver.wait_for_ids(&ids).await;
    let claimed_again = async |system: &System, ids: &mut Vec<String>, than: i64| {
        while system.epoch().await <= than {
            ids.extend(system.publish_many(5).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let epoch = system.epoch().await;
    system.start_dispatcher(config());
    claimed_again(&system, &mut ids, epoch).await;
    receiver.wait_for_ids(&ids).await;
    let epoch = system.epoch().await;
    system.shut_down().await;
    claimed_again(&system, &mut ids, epoch).await;
    ids.extend(system.publish_many(20).await);
    receiver.wait_for_ids(&ids).await;
    assert_eq!(receiver.counts().len(), ids.len());
}

#[tokio::test]
async fn deliveries_ahead_of_the_position_are_not_started_again() {
    let mut patient = config();
    // One attempt in flight stops the position; nothing is spilled by age.
    patient.spill_after = Duration::from_secs(60);
    let mut system = System::start_with(patient).await;
    let hanging = Receiver::start(ReceiverBehavior::Hang).await;
    let failing = Receiver::start(ReceiverBehavior::Status(500)).await;
    let recovering = Receiver::start(ReceiverBehavior::Turns(vec![500, 200])).await;
    system.endpoint(&hanging, json!({"event_types": ["hang"], "timeout_seconds": 30})).await;
    system.endpoint(&failing, json!({"event_types": ["fail"], "retry_schedule": [3600]})).await;
    system.endpoint(&recovering, json!({"event_types": ["recover"], "retry_schedule": [1]})).await;
    let held = system.publish(&system.event("hang")).await;
    system.publish(&system.event("fail")).await;
    let last = system.publish(&system.event("recover")).await;
    system
        .wait_for_schedule("one is scheduled and one finished", |rows| {
            let is = |wanted: &str| rows.iter().any(|(state, ..)| state == wanted);
            rows.len() == 2 && is("pending") && is("delivered")
        })
        .await;
    // Neither is swept while the position is before them.
    let position: (i64,) =
        sqlx::query_as("SELECT next_offset FROM consumer_positions WHERE consumer = 'dispatcher' AND partition = $1")
            .bind(held.partition)
            .fetch_one(&system.pool)
            .await
            .unwrap();
    assert_eq!(position.0, held.offset);
    system.crash().await;
    hanging.change(ReceiverBehavior::Status(200));
    system.start_dispatcher(config());
    system.wait_until_passed(&last).await;
    system.wait_for_schedule("the finished one is swept", |rows| rows == [("pending".to_owned(), 1, false)]).await;
    assert_eq!((hanging.received().len(), failing.received().len(), recovering.received().len()), (2, 1, 2));
}

#[tokio::test]
async fn a_fenced_instance_commits_nothing_until_it_claims_again() {
    let system = System::start().await;
    let failing = Receiver::start(ReceiverBehavior::Status(500)).await;
    system.endpoint(&failing, json!({"retry_schedule": [3600]})).await;
    let first = system.publish(&system.event("a")).await;
    system.wait_until_passed(&first).await;
    let epoch = system.overtake().await;
    let second = system.publish(&system.event("a")).await;
    failing.wait_for(2).await;
    system.wait_until_passed(&second).await;
    assert!(system.epoch().await > epoch);
    assert_eq!(failing.received().len(), 3, "the second event is sent once before the fence and once after the claim");
    assert_eq!(system.schedule().await.len(), 2);
}

#[tokio::test]
async fn a_position_outside_of_the_log_makes_it_unready() {
    let mut system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let appended = system.publish(&system.event("a")).await;
    system.wait_until_passed(&appended).await;
    system.shut_down().await;
    let moved = "UPDATE consumer_positions SET next_offset = next_offset + 1000 WHERE consumer = 'dispatcher'";
    sqlx::query(moved).execute(&system.pool).await.unwrap();
    let health = system.start_dispatcher(config());
    let epoch = system.epoch().await;
    eventually(PATIENCE, "the partitions are claimed", || async { (system.epoch().await > epoch).then_some(()) }).await;
    system.publish(&system.event("a")).await;
    eventually(PATIENCE, "the dispatcher is unready", || async { (!health.is_ready()).then_some(()) }).await;
    assert_eq!(receiver.received().len(), 1, "no record is skipped");
}

#[tokio::test]
async fn broken_database_connections_lose_no_event() {
    let system = System::start().await;
    let (receiver, failing) =
        (Receiver::start(ReceiverBehavior::Status(200)).await, Receiver::start(ReceiverBehavior::Status(500)).await);
    system.endpoint(&receiver, json!({})).await;
    system.endpoint(&failing, json!({"retry_schedule": [3600]})).await;
    let mut ids = system.publish_many(10).await;
    receiver.wait_for_ids(&ids).await;
    let publishing = async {
        let mut ids = Vec::new();
        for _ in 0..30 {
            // Fewer failures in all than open the circuit of the failing endpoint.
            ids.extend(system.publish_many(2).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ids
    };
    let (more, ()) = tokio::join!(publishing, system.break_database(Duration::from_secs(2)));
    ids.extend(more);
    let last = system.publish(&system.event("last")).await;
    receiver.wait_for_ids(&ids).await;
    failing.wait_for_ids(&ids).await;
    system.wait_until_passed(&last).await;
    system.wait_for_schedule("every failed attempt is scheduled once", |rows| rows.len() == ids.len() + 1).await;
}

#[tokio::test]
async fn a_disabled_dispatcher_sends_and_loses_nothing() {
    let mut disabled = config();
    disabled.delivers = false;
    let mut system = System::start_with(disabled).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let ids = system.publish_many(5).await;
    let (positions,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM consumer_positions").fetch_one(&system.pool).await.unwrap();
    assert_eq!((positions, receiver.received().len()), (0, 0));
    system.shut_down().await;
    system.start_dispatcher(config());
    receiver.wait_for_ids(&ids).await;
}
