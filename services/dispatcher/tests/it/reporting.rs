//! A Kafka that accepts no reports. librdkafka's mock cluster fails on demand, a real one does not.

use std::time::Duration;

use devstack::testing::eventually;
use kafka::KafkaConfig;
use kafka::producer::{Producer, ProducerSettings};
use rdkafka::mocking::MockCluster;
use serde_json::json;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{PATIENCE, System, config};

#[tokio::test]
async fn while_reports_fail_nothing_is_sent_or_lost() {
    let mut system = System::without_dispatcher().await;
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(&system.kafka.topics.deliveries, 2, 1).unwrap();
    let kafka = KafkaConfig { brokers: mock.bootstrap_servers(), ..system.kafka.clone() };
    let settings = ProducerSettings { delivery_timeout: Duration::from_secs(1), ..ProducerSettings::default() };
    let real = std::mem::replace(&mut system.producer, Producer::new(&kafka, settings).unwrap());
    let health = system.start_dispatcher(config());
    system.producer = real;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({})).await;
    let first = system.publish(&system.event("a")).await;
    system.wait_until_passed(&first).await;
    assert!(health.is_ready());

    mock.broker_down(-1).unwrap();
    let unreported = system.event("unreported");
    system.publish(&unreported).await;
    receiver.wait_for(2).await;
    eventually(PATIENCE, "the dispatcher is unready", || async { (!health.is_ready()).then_some(()) }).await;
    let waiting = system.event("waiting");
    for event in [&waiting, &system.event("marker")] {
        let appended = system.publish(event).await;
        system.wait_until_passed(&appended).await;
    }
    // After the time for the report, all three could be attempted.
    let pending = ("pending".to_owned(), 0, false);
    system
        .wait_for_schedule("all deliveries are scheduled", |rows| {
            rows.len() == 3 && rows.iter().all(|row| *row == pending)
        })
        .await;
    system.make_all_due().await;
    let finished = "UPDATE delivery_schedule SET state = 'delivered', finished_at = now() WHERE event_type = 'marker'";
    sqlx::query(finished).execute(&system.pool).await.unwrap();
    // The schedule was polled when the finished row is swept.
    system.wait_for_schedule("the finished row is swept", |rows| rows.len() == 2).await;
    assert_eq!(receiver.received().len(), 2);

    mock.broker_up(-1).unwrap();
    system.wait_for_schedule("all is delivered", |rows| rows.is_empty()).await;
    let counts = receiver.counts();
    assert_eq!((counts[&unreported.event_id.to_string()], counts[&waiting.event_id.to_string()]), (2, 1));
    eventually(PATIENCE, "the dispatcher is ready", || async { health.is_ready().then_some(()) }).await;
}
