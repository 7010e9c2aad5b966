//! Transaction markers: offsets of the log without a record.

use std::time::{SystemTime, UNIX_EPOCH};

use devstack::testing::eventually;
use kafka::fence;
use materializer::projector::CONSUMER;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::harness::{Bench, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_transaction_moves_the_position_and_not_its_time() {
    let bench = Bench::start().await;
    let topic = bench.topics().events.clone();
    let (mut config, to) = (bench.kafka.client("test"), topic.clone());
    let transaction = move || {
        let producer: BaseProducer = config.set("transactional.id", &to).create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::to(&to).partition(0).key("k").payload("v")).map_err(|(error, _)| error).unwrap();
        producer.commit_transaction(PATIENCE).unwrap();
    };
    tokio::task::spawn_blocking(transaction).await.unwrap();
    let ended_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let projecting = bench.project();
    let is_past = async || (bench.position(&topic, 0).await == Some(2)).then_some(());
    eventually(PATIENCE, "the position is past the record and the end of its transaction", is_past).await;
    let stored = fence::record_time_ms(&bench.pool, CONSUMER, &topic, 0).await.unwrap();
    assert!(
        stored.is_some_and(|stored| stored <= ended_ms),
        "{stored:?} is the record's time, not that of passing the marker after {ended_ms}"
    );
    projecting.stop().await;
}
