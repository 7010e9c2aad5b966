//! A partition without a leader, on a mock cluster: a real one cannot be made to lose the leader of one partition
//! alone.

use devstack::testing::eventually;
use kafka::KafkaConfig;
use materializer::projector::ProjectorConfig;
use rdkafka::mocking::MockCluster;

use super::harness::{Bench, PARTITIONS, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_leaderless_partition_does_not_stop_the_others() {
    let mock = MockCluster::new(1).unwrap();
    let bench = Bench::start().await.with_log(KafkaConfig::new(mock.bootstrap_servers(), ""));
    for topic in [&bench.topics().events, &bench.topics().acks, &bench.topics().deliveries] {
        mock.create_topic(topic, PARTITIONS, 1).unwrap();
    }
    bench.watch_writes().await;
    let (here, there) = (bench.organization(0).await, bench.organization(1).await);
    let ids = bench.flow(&[here, there], 2).await;
    let events = bench.topics().events.clone();
    mock.partition_leader(&events, 1, None).unwrap();
    let projecting = bench.project_as(ProjectorConfig::default());
    eventually(PATIENCE, "the other is written", async || (bench.position(&events, 0).await == Some(1)).then_some(()))
        .await;
    projecting.is_ready(false).await;
    assert_eq!(bench.position(&events, 1).await, None, "the start of its log cannot be read");
    mock.partition_leader(&events, 1, Some(1)).unwrap();
    bench.all_applied().await;
    projecting.is_ready(true).await;
    bench.assert_each_once(ids).await;
    projecting.stop().await;
}
