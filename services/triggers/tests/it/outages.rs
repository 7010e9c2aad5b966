//! Kafka or PostgreSQL is away: which requests still work, which are refused in time, and recovery without a restart.

use std::time::{Duration, Instant};

use devstack::testing::{self, eventually};
use devstack::{Options, Stack};
use serde_json::json;

use crate::api::ids;
use crate::system::System;

const ACCEPT_TIMEOUT: Duration = Duration::from_millis(1500);
/// Extra time for a busy machine.
const SLACK: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_events_are_refused_and_accepted_later() {
    let stack = Stack::start(Options { postgres: false, ..Options::test() }).await.unwrap();
    let database = testing::shared().await.database().await;
    let system = System::on(stack.kafka_brokers(), &database.url).await;
    let budget = ACCEPT_TIMEOUT.as_millis().to_string();
    let (ingest, materializer, api) = system.inbox_roles(&[("ACCEPT_TIMEOUT_MS", &budget)]).await;
    let before = api.accept("before", &json!(1)).await;
    api.shown(&before, PATIENCE).await;

    stack.kafka().unwrap().stop().await;
    let event = json!({"event_type": "during", "payload": 2});
    for _ in 0..2 {
        let started = Instant::now();
        api.post_event_as("again", &event).await.expect_retry_later();
        assert!(started.elapsed() < ACCEPT_TIMEOUT + SLACK, "refused after {:?}", started.elapsed());
    }
    assert_eq!(ids(&api.inbox(50).await), [before.as_str()], "the inbox is readable without Kafka");

    stack.kafka().unwrap().start().await.unwrap();
    let accepted = eventually(PATIENCE, "the same process accepts events again", || async {
        let reply = api.post_event_as("again", &event).await;
        (reply.status == 201).then(|| reply.json()["event_id"].as_str().unwrap().to_owned())
    })
    .await;
    let after = api.accept("after", &json!(3)).await;
    api.shown(&after, PATIENCE).await;
    assert_eq!(ids(&api.inbox(50).await), [before, accepted, after], "the refused and repeated event is there once");
    drop((ingest, materializer));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_postgresql_events_with_cached_keys_are_accepted() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let system = System::on(testing::shared().await.brokers(), &stack.database_url()).await;
    let (ingest, materializer, cached) = system.inbox_roles(&[]).await;
    let uncached = cached.with_new_key("produce").await;
    let mut accepted = vec![cached.accept("before", &json!(0)).await];
    cached.shown(&accepted[0], PATIENCE).await;

    stack.postgres().unwrap().stop().await;
    for n in 0..20 {
        accepted.push(cached.accept("during", &json!(n)).await);
    }
    uncached.post("/v1/events", &json!({"event_type": "uncached", "payload": 1})).await.expect_retry_later();
    for path in ["/v1/inbox".to_owned(), format!("/v1/events/{}", accepted[0])] {
        cached.get(&path).await.expect_retry_later();
    }

    stack.postgres().unwrap().start().await.unwrap();
    accepted.push(
        eventually(PATIENCE, "the uncached key is accepted again", || async {
            let reply = uncached.post("/v1/events", &json!({"event_type": "uncached", "payload": 1})).await;
            (reply.status == 201).then(|| reply.json()["event_id"].as_str().unwrap().to_owned())
        })
        .await,
    );
    let last = accepted.last().unwrap();
    eventually(PATIENCE, "the same process reads again", || async {
        let reply = cached.get(&format!("/v1/events/{last}")).await;
        (reply.status == 200).then_some(())
    })
    .await;
    assert_eq!(ids(&cached.inbox(50).await), accepted, "events accepted without PostgreSQL are there, in order");
    drop((ingest, materializer));
    stack.stop().await;
}
