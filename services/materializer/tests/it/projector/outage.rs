//! PostgreSQL is killed and started again.

use std::time::Duration;

use devstack::{Options, Stack};
use materializer::projector::ProjectorConfig;

use super::harness::Bench;

async fn own_postgres() -> Stack {
    Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_written_once_although_postgres_is_killed() {
    let stack = own_postgres().await;
    let bench = Bench::on(&stack.database_url(), None).await;
    bench.watch_writes().await;
    let orgs = [bench.organization(0).await, bench.organization(1).await];
    let projecting = bench.project();
    projecting.is_ready(true).await;
    let flow = bench.flowing(&orgs, 4000);
    let mut ids = Vec::new();
    for shown in [300, 1000] {
        bench.shown(shown).await;
        stack.postgres().unwrap().kill().await;
        // All events may be written by now; without a new record the outage would not be noticed.
        ids.extend(bench.flow(&orgs, 2).await);
        projecting.is_ready(false).await;
        stack.postgres().unwrap().start().await.unwrap();
        projecting.is_ready(true).await;
    }
    ids.extend(flow.await.unwrap());
    bench.all_applied().await;
    bench.assert_each_once(ids).await;
    projecting.stop().await;
    bench.pool.close().await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_in_time_while_postgres_is_gone() {
    let stack = own_postgres().await;
    let bench = Bench::on(&stack.database_url(), None).await;
    let org = bench.organization(0).await;
    let deadline = Duration::from_secs(4);
    let projecting = bench.project_as(ProjectorConfig { shutdown_deadline: deadline, ..ProjectorConfig::default() });
    bench.flow(&[org], 10).await;
    bench.all_applied().await;
    stack.postgres().unwrap().kill().await;
    bench.flow(&[org], 10).await;
    projecting.is_ready(false).await;
    let (took, error) = projecting.stop_late().await;
    // A second beyond, for a machine that is busy.
    assert!((deadline..deadline + Duration::from_secs(1)).contains(&took), "{took:?}");
    assert!(error.contains("the running flush did not finish within 4s"), "{error}");
    stack.postgres().unwrap().start().await.unwrap();
    let again = bench.project();
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 20);
    again.stop().await;
    bench.pool.close().await;
    stack.stop().await;
}
