//! `bench bare`: the loops answer, their CPU is counted separately, and they leave nothing behind.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::{assert_code, bench};

#[tokio::test]
async fn the_http_loop_is_measured_in_its_own_process() {
    let data = tempfile::tempdir().unwrap();
    let load = ["--rate", "200", "--ramp", "1s", "--duration", "1s", "--orgs", "5", "--connections", "8"];
    let (output, report) = bench(&[&["bare", "http"][..], &load[..]].concat(), &data.path().join("report")).await;
    assert_code(&output, 0);
    // The hundred requests of the ramp are not measured.
    assert_eq!(report["figures"]["requests"], 200);
    assert_eq!(report["figures"]["outcomes"]["accepted"], 300);
    assert!(report["figures"]["components"]["server"]["memory_mib"].as_f64().unwrap() > 0.5);
}

#[tokio::test]
async fn the_producing_loop_uses_kafka_and_leaves_no_topic() {
    let brokers = devstack::testing::shared().await.brokers();
    let data = tempfile::tempdir().unwrap();
    let load =
        ["--closed", "--concurrency", "4", "--ramp", "0", "--duration", "1s", "--orgs", "5", "--brokers", brokers];
    let (output, report) = bench(&[&["bare", "produce"][..], &load[..]].concat(), &data.path().join("report")).await;
    assert_code(&output, 0);
    assert!(report["figures"]["requests"].as_u64().unwrap() > 10, "{report:#}");
    assert_eq!(report["figures"]["errors"], 0);
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    devstack::testing::eventually(Duration::from_secs(10), "the topic is gone", || async {
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(5)).ok()?;
        metadata.topics().iter().all(|topic| !topic.name().starts_with("bench.bare.")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_missing_broker_is_wrong_usage_and_a_dead_one_a_failure() {
    let data = tempfile::tempdir().unwrap();
    let none = ["bare", "produce", "--data-dir", data.path().to_str().unwrap()];
    assert_code(&bench(&none, &data.path().join("report")).await.0, 2);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dead = ["bare", "produce", "--brokers", &format!("127.0.0.1:{port}")];
    assert_code(&bench(&dead, &data.path().join("report")).await.0, 1);
}
