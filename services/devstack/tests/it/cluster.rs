//! A cluster whose nodes are killed, halted and started.

use std::time::Duration;

use devstack::testing::eventually;
use devstack::testing::processes::gone;
use devstack::{Cluster, ClusterOptions, Signal};

use crate::traffic;

const DEADLINE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn records_survive_a_killed_leader_and_one_node_accepts_none() {
    let cluster = Cluster::start(ClusterOptions { nodes: 3, small_disk_mib: None }).await.unwrap();
    let brokers = cluster.kafka_brokers().to_owned();
    assert_eq!((cluster.ids(), brokers.split(',').count()), (vec![1, 2, 3], 3));
    traffic::create_replicated_topic(&brokers, "kept", 3).await;
    traffic::produce(&brokers, "kept", "a record").await;

    let leader = cluster.controller_leader().expect("there is a leader");
    cluster.node(leader).unwrap().kill().await;
    let next =
        eventually(DEADLINE, "another node leads", || async { cluster.controller_leader().filter(|&id| id != leader) })
            .await;
    assert_ne!(next, leader);
    assert_eq!(traffic::consume(&brokers, "kept").await, "a record");
    traffic::produce(&brokers, "kept", "another").await;

    let other = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    cluster.node(other).unwrap().signal(Signal::STOP);
    let refused = traffic::try_produce(&brokers, "kept", "lonely", Duration::from_secs(5)).await;
    assert!(refused.is_err(), "one node of three acknowledged a record");
    cluster.node(other).unwrap().signal(Signal::CONT);
    cluster.start_nodes(&[leader]).await.unwrap();
    traffic::produce(&brokers, "kept", "together again").await;
    cluster.stop().await;
}

#[tokio::test]
async fn servers_of_a_dropped_cluster_exit_and_its_small_disk_fills() {
    let cluster = Cluster::start(ClusterOptions { nodes: 1, small_disk_mib: Some(64) }).await.unwrap();
    let folder = cluster.data_dir().to_path_buf();
    let processes = [
        (cluster.node(1).unwrap().pid().unwrap(), "java".into()),
        (cluster.postgres().pid().unwrap(), "postgres".into()),
    ];
    traffic::insert_row(&cluster.database_url(), "a row").await;
    cluster.postgres().stop_immediately().await;
    cluster.postgres().start().await.unwrap();
    assert_eq!(traffic::read_rows(&cluster.database_url()).await, ["a row"]);
    // If mounting is not allowed, the error has the reason.
    match cluster.node_with_small_disk() {
        Ok(node) => {
            assert_eq!(node, 1);
            cluster.fill_disk().unwrap();
            assert!(std::fs::write(folder.join("kafka-1/data/more"), "x").is_err(), "it is not full");
            cluster.clear_disk().unwrap();
        }
        Err(reason) => assert!(reason.contains("mount"), "{reason}"),
    }
    drop(cluster);
    gone(&processes).await;
    assert!(!folder.exists());
}
