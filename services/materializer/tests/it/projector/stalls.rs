//! A stalled consumer, which gets no records although there is lag, is restarted, and each record is written once.

use std::time::Duration;

use materializer::projector::ProjectorConfig;

use super::harness::Bench;

/// More records than the queue of the client may have before it fetches again, in one fetch.
const MANY: usize = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_consumer_is_restarted_and_loses_nothing() {
    let bench = Bench::start().await;
    bench.watch_writes().await;
    let org = bench.organization(0).await;
    let mut ids = bench.flow(&[org], MANY).await;
    futures_util::future::join_all(ids.iter().map(|id| bench.ack(org, *id))).await;
    // A real stall, made by configuration: with more than a hundred records in its queue the client fetches nothing for
    // five minutes.
    let mut stalling = bench.clone();
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    stalling.kafka.properties =
        vec![property("queued.min.messages", "100"), property("fetch.queue.backoff.ms", "300000")];
    let projecting =
        stalling.project_as(ProjectorConfig { stall_after: Duration::from_secs(2), ..ProjectorConfig::default() });
    bench.all_applied().await;
    // The consumer of events stalls.
    ids.extend(bench.flow(&[org], 1).await);
    bench.all_applied().await;
    // The companion consumer stalls.
    bench.ack(org, ids[MANY]).await;
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events WHERE acknowledged_at IS NULL").await, 0);
    bench.assert_each_once(ids).await;
    projecting.is_ready(true).await;
    projecting.stop().await;
}
