//! The producer when a topic is deleted and created again, on three nodes: the old topic has a higher leader epoch than
//! the new one, and another leader.

use devstack::testing::eventually;
use devstack::{Cluster, ClusterOptions};
use kafka::KafkaConfig;
use kafka::producer::{Producer, ProducerRecord, ProducerSettings};
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use tokio_util::sync::CancellationToken;

use crate::consumer::PATIENCE;
use crate::log_identity::{admin, create};

async fn publish(producer: &Producer, topic: &str) -> Option<i64> {
    let record = ProducerRecord { topic, key: Some(b"k"), value: Some(b"v"), headers: &[] };
    Some(producer.publish(record).await.ok()?.offset)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_again_is_written_although_its_leader_epoch_is_lower() {
    let nodes = Cluster::start(ClusterOptions { nodes: 3, small_disk_mib: None }).await.unwrap();
    let kafka = KafkaConfig::new(nodes.kafka_brokers(), "recreation.");
    let topic = kafka.topics.events.clone();
    let (both, first): (&[&[i32]], &[&[i32]]) = (&[&[1, 2]], &[&[1]]);
    create(&kafka, &NewTopic::new(&topic, 1, TopicReplication::Variable(both)).set("min.insync.replicas", "1")).await;
    let producer = Producer::new(&kafka, ProducerSettings::default()).unwrap();
    let shutdown = CancellationToken::new();
    let (warmed, topics, until) = (producer.clone(), [topic.clone()], shutdown.clone());
    let warming = tokio::spawn(async move { warmed.keep_warm(&topics, |_| (), until).await });
    eventually(PATIENCE, "node 1 leads", || publish(&producer, &topic)).await;
    nodes.node(1).unwrap().stop().await;
    eventually(PATIENCE, "node 2 leads", || publish(&producer, &topic)).await;
    nodes.start_nodes(&[1]).await.unwrap();

    // Node 1 leads the new topic, at epoch 0.
    admin(&kafka).delete_topics(&[&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    create(&kafka, &NewTopic::new(&topic, 1, TopicReplication::Variable(first))).await;
    eventually(PATIENCE, "the new topic is written", || publish(&producer, &topic)).await;
    shutdown.cancel();
    warming.await.unwrap();
    nodes.stop().await;
}
