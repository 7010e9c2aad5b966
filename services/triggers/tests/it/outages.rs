//! Kafka or PostgreSQL away: what goes on, what is refused and how soon, and that the same processes work again
//! afterwards.

use std::time::{Duration, Instant};

use devstack::testing::{self, eventually};
use devstack::{Options, Stack};
use serde_json::json;

use crate::api::ids;
use crate::system::System;

const ACCEPT_TIMEOUT: Duration = Duration::from_millis(1500);
/// What a busy machine adds to a budget.
const SLACK: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_an_event_is_refused_in_time_and_with_it_again_taken_once() {
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
        let begun = Instant::now();
        api.post_event_as("again", &event).await.expect_retry_later();
        assert!(begun.elapsed() < ACCEPT_TIMEOUT + SLACK, "answered after {:?}", begun.elapsed());
    }
    assert_eq!(ids(&api.inbox(50).await), [before.as_str()], "reading goes on");

    stack.kafka().unwrap().start().await.unwrap();
    let accepted = eventually(PATIENCE, "the same process takes events again", || async {
        let reply = api.post_event_as("again", &event).await;
        (reply.status == 201).then(|| reply.json()["event_id"].as_str().unwrap().to_owned())
    })
    .await;
    let after = api.accept("after", &json!(3)).await;
    api.shown(&after, PATIENCE).await;
    assert_eq!(ids(&api.inbox(50).await), [before, accepted, after], "what was refused and repeated is there once");
    drop((ingest, materializer));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_postgresql_events_with_known_keys_are_accepted_and_reads_come_back_with_it() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let system = System::on(testing::shared().await.brokers(), &stack.database_url()).await;
    let (ingest, materializer, known) = system.inbox_roles(&[]).await;
    let unknown = known.with_new_key("produce").await;
    let mut accepted = vec![known.accept("before", &json!(0)).await];
    known.shown(&accepted[0], PATIENCE).await;

    stack.postgres().unwrap().stop().await;
    for n in 0..20 {
        accepted.push(known.accept("during", &json!(n)).await);
    }
    unknown.post("/v1/events", &json!({"event_type": "unknown", "payload": 1})).await.expect_retry_later();
    for path in ["/v1/inbox".to_owned(), format!("/v1/events/{}", accepted[0])] {
        known.get(&path).await.expect_retry_later();
    }

    stack.postgres().unwrap().start().await.unwrap();
    accepted.push(
        eventually(PATIENCE, "the key is looked up again", || async {
            let reply = unknown.post("/v1/events", &json!({"event_type": "unknown", "payload": 1})).await;
            (reply.status == 201).then(|| reply.json()["event_id"].as_str().unwrap().to_owned())
        })
        .await,
    );
    let last = accepted.last().unwrap();
    eventually(PATIENCE, "the same process reads again", || async {
        let reply = known.get(&format!("/v1/events/{last}")).await;
        (reply.status == 200).then_some(())
    })
    .await;
    assert_eq!(ids(&known.inbox(50).await), accepted, "what was accepted meanwhile is there, in its order");
    drop((ingest, materializer));
    stack.stop().await;
}
