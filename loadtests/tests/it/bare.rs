//! `loadtests bare`: the loops answer, their CPU is told apart, and nothing is left behind.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::{assert_code, loadtests};

#[tokio::test]
async fn the_http_loop_is_measured_in_a_process_of_its_own() {
    let data = tempfile::tempdir().unwrap();
    let load = ["--rate", "200", "--ramp", "1s", "--duration", "1s", "--orgs", "5", "--connections", "8"];
    let (output, report) = loadtests(&[&["bare", "http"][..], &load[..]].concat(), &data.path().join("report")).await;
    assert_code(&output, 0);
    // The ramp's hundred are not counted.
    assert_eq!(report["figures"]["requests"], 200);
    assert_eq!(report["figures"]["outcomes"]["accepted"], 300);
    assert!(report["figures"]["components"]["server"]["memory_mib"].as_f64().unwrap() > 0.5);
}

#[tokio::test]
async fn the_producing_loop_answers_when_kafka_has_the_record_and_leaves_no_topic() {
    let brokers = devstack::testing::shared().await.brokers();
    let data = tempfile::tempdir().unwrap();
    let load =
        ["--closed", "--concurrency", "4", "--ramp", "0", "--duration", "1s", "--orgs", "5", "--brokers", brokers];
    let (output, report) =
        loadtests(&[&["bare", "produce"][..], &load[..]].concat(), &data.path().join("report")).await;
    assert_code(&output, 0);
    assert!(report["figures"]["requests"].as_u64().unwrap() > 10, "{report:#}");
    assert_eq!(report["figures"]["errors"], 0);
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    devstack::testing::eventually(Duration::from_secs(10), "the topic is gone", || async {
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(5)).ok()?;
        metadata.topics().iter().all(|topic| !topic.name().starts_with("loadtests.bare.")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_broker_the_producing_loop_is_wrong_usage_and_with_a_dead_one_a_failure() {
    let data = tempfile::tempdir().unwrap();
    let none = ["bare", "produce", "--data-dir", data.path().to_str().unwrap()];
    assert_code(&loadtests(&none, &data.path().join("report")).await.0, 2);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dead = ["bare", "produce", "--brokers", &format!("127.0.0.1:{port}")];
    assert_code(&loadtests(&dead, &data.path().join("report")).await.0, 1);
}
