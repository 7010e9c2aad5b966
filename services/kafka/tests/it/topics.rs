//! Topics that somebody else has set up, held against the manifest: what is more generous stays, what is too little is
//! repaired.

use kafka::KafkaConfig;
use kafka::topics::{self, Difference, Replication};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

const ONE: Replication = Replication { factor: 1, min_in_sync: 1 };

/// Gives `topic` these overrides and no others.
pub(crate) async fn set_up(kafka: &KafkaConfig, topic: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = kafka.admin_client("test").create().unwrap();
    let alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
    let alter = settings.iter().fold(alter, |alter, (name, value)| alter.set(name, value));
    for altered in admin.alter_configs([&alter], &AdminOptions::new()).await.unwrap() {
        altered.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_topic_that_keeps_less_than_the_manifest_differs() {
    let shared = devstack::testing::shared().await;
    let kafka = KafkaConfig::new(shared.brokers(), &shared.topic_prefix());
    let manifest = kafka.topics.manifest(1);
    topics::apply(&kafka, &topics::plan(&kafka, &manifest, ONE).await.unwrap(), ONE).await.unwrap();

    let log = [("cleanup.policy", "delete"), ("message.timestamp.type", "LogAppendTime"), ("compression.type", "zstd")];
    let generous = [("retention.ms", "-1"), ("segment.ms", "3600000"), ("min.insync.replicas", "2")];
    set_up(&kafka, &kafka.topics.events, &[&log[..], &generous].concat()).await;
    let year = [("retention.ms", "31536000000"), ("segment.ms", "86400000")];
    set_up(&kafka, &kafka.topics.acks, &[&log[..], &year].concat()).await;
    let large = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("max.message.bytes", "10485760")];
    set_up(&kafka, &kafka.topics.dead_letters, &large).await;
    assert_eq!(topics::plan(&kafka, &manifest, ONE).await.unwrap(), []);

    let less = [
        ("cleanup.policy", "compact"),
        ("retention.ms", "3600000"),
        ("segment.ms", "604800000"),
        // More than the manifest says is not more generous: one batch could then fill the memory of each reader.
        ("max.message.bytes", "10485760"),
        ("compression.type", "gzip"),
    ];
    set_up(&kafka, &kafka.topics.deliveries, &less).await;
    let differences = topics::plan(&kafka, &manifest, ONE).await.unwrap();
    let reported: Vec<String> = differences.iter().map(Difference::to_string).collect();
    let topic = &kafka.topics.deliveries;
    let wanted = [
        "cleanup.policy is compact, must be delete",
        "message.timestamp.type is CreateTime, must be LogAppendTime",
        "retention.ms is 3600000, must be at least 777600000",
        "segment.ms is 604800000, must be at most 86400000",
        "max.message.bytes is 10485760, must be 1048588",
        "compression.type is gzip, must be zstd",
    ];
    assert_eq!(reported, wanted.map(|difference| format!("{topic}: {difference}")));
    topics::apply(&kafka, &differences, ONE).await.unwrap();
    assert_eq!(topics::plan(&kafka, &manifest, ONE).await.unwrap(), []);
}
