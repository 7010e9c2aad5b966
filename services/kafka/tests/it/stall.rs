//! The watch over a consumer: a stall is found on either client, and what only looks like one is not.
//!
//! The stall is a real one, made by configuration: a client whose queue holds a hundred records fetches nothing more
//! for five minutes.

use std::time::{Duration, Instant};

use kafka::KafkaConfig;
use kafka::consumer::{ConsumerEvent, ConsumerSettings, FencedConsumer};
use kafka::fence;
use kafka::producer::{Producer, ProducerSettings};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sqlx::postgres::PgPool;
use tokio::sync::mpsc;

use crate::consumer::{PATIENCE, cluster, publish};
use crate::database;

const STALL_AFTER: Duration = Duration::from_secs(2);
const MANY: usize = 3_000;

fn start(kafka: &KafkaConfig, pool: &PgPool) -> (FencedConsumer, mpsc::Receiver<ConsumerEvent>) {
    let mut settings = ConsumerSettings::new("test", &kafka.topics.group_materializer, &kafka.topics.events);
    settings.companion_topics = vec![kafka.topics.acks.clone()];
    settings.session_timeout = Duration::from_secs(2);
    settings.stall_after = STALL_AFTER;
    FencedConsumer::start(kafka, pool.clone(), settings).unwrap()
}

async fn next(received: &mut mpsc::Receiver<ConsumerEvent>) -> ConsumerEvent {
    tokio::time::timeout(PATIENCE, received.recv())
        .await
        .expect("the consumer says nothing")
        .expect("the consumer ended")
}

async fn publish_many(producer: &Producer, topic: &str, count: usize) {
    for _ in 0..count / 1000 {
        futures_util::future::join_all((0..1000).map(|_| publish(producer, topic, "k", "v"))).await;
    }
}

/// Values of the records that come until something else does.
async fn read_until_failed(received: &mut mpsc::Receiver<ConsumerEvent>) -> (Vec<String>, String) {
    let mut values = Vec::new();
    loop {
        match next(received).await {
            ConsumerEvent::Assigned(_) => {}
            ConsumerEvent::Records(records) => {
                values.extend(
                    records.iter().map(|record| String::from_utf8(record.value.clone().unwrap_or_default()).unwrap()),
                );
            }
            ConsumerEvent::Failed(reason) => return (values, reason),
            other => panic!("{other:?}"),
        }
    }
}

/// What comes within `time`, as long as it is no failure.
async fn read_for(time: Duration, received: &mut mpsc::Receiver<ConsumerEvent>) -> usize {
    let until = Instant::now() + time;
    let mut read = 0;
    while let Ok(message) = tokio::time::timeout(until.saturating_duration_since(Instant::now()), received.recv()).await
    {
        match message.expect("the consumer ended") {
            ConsumerEvent::Records(records) => read += records.len(),
            ConsumerEvent::Assigned(_) => {}
            other => panic!("{other:?}"),
        }
    }
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_of_the_subscribed_topic_is_detected() {
    a_stall_is_found(|kafka| kafka.topics.events.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_of_a_companion_topic_is_detected() {
    a_stall_is_found(|kafka| kafka.topics.acks.clone()).await;
}

async fn a_stall_is_found(which: fn(&KafkaConfig) -> String) {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let topic = which(&kafka);
    let producer = Producer::new(&kafka, ProducerSettings::default()).unwrap();
    let mut stalling = kafka.clone();
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    stalling.properties = vec![property("queued.min.messages", "100"), property("fetch.queue.backoff.ms", "300000")];
    // So many that the queue holds some when the client decides whether to fetch on.
    publish_many(&producer, &topic, MANY).await;
    let (consumer, mut received) = start(&stalling, &pool);
    let ConsumerEvent::Assigned(_) = next(&mut received).await else { panic!("claims come first") };
    let read = read_for(Duration::from_secs(1), &mut received).await;
    assert_eq!(read, MANY);
    publish(&producer, &topic, "k", "one more").await;
    let (values, reason) = read_until_failed(&mut received).await;
    assert_eq!(values, Vec::<String>::new());
    let (partition, ends) = (format!("{topic}[0]"), format!("up to {MANY}, ends at {}", MANY + 1));
    assert!(reason.contains(&partition) && reason.contains(&ends), "{reason}");
    assert!(runtime::telemetry::metrics::render().contains("triggers_consumer_stalls_total{consumer=\"test\"}"));
    drop(received);
    consumer.stop(PATIENCE).await;

    let (consumer, mut received) = start(&kafka, &pool);
    let mut read = 0;
    while read <= MANY {
        if let ConsumerEvent::Records(records) = next(&mut received).await {
            read += records.len();
        }
    }
    assert_eq!(read_for(STALL_AFTER * 2, &mut received).await, 0, "read to its end, nothing stalls");
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_holds_back_is_no_stall() {
    const RECORDS: usize = 10_000;
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let producer = Producer::new(&kafka, ProducerSettings::default()).unwrap();
    publish_many(&producer, &kafka.topics.events, RECORDS).await;
    let (consumer, mut received) = start(&kafka, &pool);
    // Not a wait for something: for as long as this, nothing may happen.
    tokio::time::sleep(STALL_AFTER * 4).await;
    let mut read = 0;
    while read < RECORDS {
        read += read_for(Duration::from_secs(1), &mut received).await;
    }
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_of_a_native_producer_is_no_stall() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let (consumer, mut received) = start(&kafka, &pool);
    let ConsumerEvent::Assigned(_) = next(&mut received).await else { panic!("claims come first") };
    let topic = kafka.topics.events.clone();
    let open = tokio::task::spawn_blocking({
        let (mut config, topic) = (kafka.client("test"), topic.clone());
        move || {
            let producer: BaseProducer = config.set("transactional.id", &topic).create().unwrap();
            producer.init_transactions(PATIENCE).unwrap();
            producer.begin_transaction().unwrap();
            producer.send(BaseRecord::to(&topic).key("k").payload("v")).map_err(|(error, _)| error).unwrap();
            producer.flush(PATIENCE).unwrap();
            producer
        }
    });
    let open = open.await.unwrap();
    let producer = Producer::new(&kafka, ProducerSettings::default()).unwrap();
    publish(&producer, &topic, "k", "behind it").await;
    assert_eq!(read_for(STALL_AFTER * 4, &mut received).await, 0);
    tokio::task::spawn_blocking(move || open.commit_transaction(PATIENCE).unwrap()).await.unwrap();
    let mut read = 0;
    while read < 3 {
        let ConsumerEvent::Records(records) = next(&mut received).await else { panic!("records come") };
        read += records.len();
    }
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_lost_without_the_group_restarts_the_consumer() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let (consumer, mut received) = start(&kafka, &pool);
    let ConsumerEvent::Assigned(_) = next(&mut received).await else { panic!("claims come first") };
    assert_eq!(read_for(Duration::from_secs(5), &mut received).await, 0, "its own claims are kept");
    let seen = fence::repair::positions(&pool).await.unwrap();
    let acks = seen.iter().find(|position| position.topic == kafka.topics.acks).unwrap();
    assert_eq!(
        fence::repair::repair(&pool, &acks.topic, 0, &[acks], 0, fence::repair::LogChange::NewLog, None).await.unwrap(),
        Some(2)
    );
    let (_, reason) = read_until_failed(&mut received).await;
    assert!(reason.contains(&kafka.topics.acks), "{reason}");
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_of_a_restored_backup_restarts_the_consumer() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let (consumer, mut received) = start(&kafka, &pool);
    let ConsumerEvent::Assigned(claims) = next(&mut received).await else { panic!("claims come first") };
    let claim = claims.iter().find(|claim| *claim.topic == *kafka.topics.events).unwrap();
    // Under the same epoch, as in a backup that was made since the last claim. The watch has seen the later
    // position when it is healthy.
    let set = async |next_offset: i64| {
        let sql = "UPDATE consumer_positions SET next_offset = $1 WHERE topic = $2 AND epoch = $3";
        let done =
            sqlx::query(sql).bind(next_offset).bind(&*claim.topic).bind(claim.epoch).execute(&pool).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
    };
    set(7).await;
    assert_eq!(read_for(Duration::from_secs(5), &mut received).await, 0, "a position that advances is no loss");
    set(3).await;
    let (_, reason) = read_until_failed(&mut received).await;
    assert!(reason.contains(&kafka.topics.events), "{reason}");
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}
