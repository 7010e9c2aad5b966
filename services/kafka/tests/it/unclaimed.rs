//! Partitions of the group topic that no instance claims.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka::consumer::ConsumerEvent;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::consumer::{Owner, PATIENCE, cluster, start};
use crate::database;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_nobody_claims_restarts_the_consumer() {
    let (database, pool) = database().await;
    let kafka = cluster(2).await;
    // A member of the group that claims nothing, as when librdkafka does not assign an added partition to anybody.
    let silent: BaseConsumer = kafka
        .client("silent")
        .set("group.id", &kafka.topics.group_materializer)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    silent.subscribe(&[&kafka.topics.events]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (joined, is_joined) = tokio::sync::oneshot::channel();
    let polling = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut joined = Some(joined);
            while !stop.load(Ordering::Relaxed) {
                drop(silent.poll(Duration::from_millis(100)));
                if silent.assignment().unwrap().count() == 2 {
                    joined.take().map(|joined| joined.send(()));
                }
            }
        }
    });
    is_joined.await.unwrap();
    let (consumer, mut received) = start(&kafka, &pool);
    let mut owner = Owner::default();
    while owner.claims.is_empty() {
        owner.take(&mut received).await;
    }
    let owned = owner.claims.values().next().unwrap().partition;
    let reason = loop {
        match tokio::time::timeout(PATIENCE, received.recv()).await.expect("the watch notices it").unwrap() {
            ConsumerEvent::Failed(reason) => break reason,
            event => assert!(!matches!(event, ConsumerEvent::Assigned(_)), "{event:?}"),
        }
    };
    assert_eq!(reason, format!("no instance claims {}[{}]", kafka.topics.events, 1 - owned));
    drop(received);
    consumer.stop(PATIENCE).await;
    stop.store(true, Ordering::Relaxed);
    polling.join().unwrap();

    let (consumer, mut received) = start(&kafka, &pool);
    let mut owner = Owner::default();
    while owner.claims.len() < 4 {
        owner.take(&mut received).await;
    }
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}
