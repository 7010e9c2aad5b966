//! Repeated events at two instances of ingest, with a materializer and a dispatcher: one row and one webhook for each
//! event, and the id in every response resolves to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use devstack::testing::{eventually, read_topic};
use rdkafka::message::{Message as _, OwnedMessage};
use schemas::topics;
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};
use tokio::task::JoinSet;

use crate::api::{Api, Reply};
use crate::process::Process;
use crate::system::System;

/// A busy machine shares its processors among many tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Allows webhooks to receivers on this machine.
const RECEIVERS: [(&str, &str); 2] = [("WEBHOOK_ALLOW_HTTP", "true"), ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")];

/// Two instances of ingest, with a client of each that has the same key. The test starts the consumers.
struct IngestPair {
    system: System,
    apis: [Api; 2],
    _instances: [Process; 2],
}

impl IngestPair {
    async fn start() -> Self {
        let system = System::shared().await;
        // One after the other: the first creates the sealing key.
        let first = system.role("ingest", &RECEIVERS);
        let base_url = first.ready().await;
        let second = system.role("ingest", &RECEIVERS);
        let api = Api::of_new_organization(&base_url, &system.operator_token, "Test").await;
        let mut other = api.clone();
        other.base_url = second.ready().await;
        Self { system, apis: [api, other], _instances: [first, second] }
    }

    /// Starts a materializer and a dispatcher.
    async fn start_consumers(&self) -> [Process; 2] {
        let consumers = [self.system.role("materializer", &[]), self.system.role("dispatcher", &RECEIVERS)];
        tokio::join!(consumers[0].ready(), consumers[1].ready());
        consumers
    }

    /// Waits until both consumers have applied the whole log and no delivery is pending; returns the number of received
    /// webhooks by event id.
    async fn wait_until_delivered(&self, receiver: &Receiver) -> BTreeMap<String, usize> {
        let topic = self.system.topic(topics::EVENTS);
        let records = read_topic(&self.system.brokers, &topic).await;
        let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
        for record in &records {
            ends.entry(record.partition())
                .and_modify(|end| *end = (*end).max(record.offset() + 1))
                .or_insert(record.offset() + 1);
        }
        let database = self.system.database().await;
        eventually(PATIENCE, "all records are applied and all webhooks are sent", || async {
            for (partition, end) in &ends {
                let applied =
                    "SELECT count(*) FROM consumer_positions WHERE topic = $1 AND partition = $2 AND next_offset >= $3";
                let query = sqlx::query_scalar(applied).bind(&topic).bind(partition).bind(end);
                let consumers: i64 = query.fetch_one(&database).await.ok()?;
                if consumers < 2 {
                    return None;
                }
            }
            let open = "SELECT (SELECT count(*) FROM delivery_schedule WHERE finished_at IS NULL)
                                + (SELECT count(*) FROM deliveries_awaiting_dedup)";
            let open: i64 = sqlx::query_scalar(open).fetch_one(&database).await.ok()?;
            (open == 0).then_some(())
        })
        .await;
        let mut received = BTreeMap::new();
        for one in receiver.take() {
            *received.entry(one.id()).or_default() += 1;
        }
        received
    }

    async fn count_records(&self) -> usize {
        read_topic(&self.system.brokers, &self.system.topic(topics::EVENTS))
            .await
            .iter()
            .filter(|record: &&OwnedMessage| record.payload().is_some())
            .count()
    }
}

/// A receiver with an endpoint for all events of the organization.
async fn receiver(api: &Api) -> Receiver {
    let receiver = Receiver::start(ReceiverBehavior::Status(204)).await;
    api.post("/v1/endpoints", &json!({"url": receiver.url()})).await.expect(201);
    receiver
}

fn id_of(reply: &Reply) -> String {
    reply.json()["event_id"].as_str().unwrap().to_owned()
}

/// The event that an id resolves to.
async fn resolve(api: &Api, id: &str) -> Value {
    let event = api.get(&format!("/v1/events/{id}")).await.expect(200).json();
    let is_alias = event["event_id"] != id;
    assert_eq!(event.get("duplicate_of"), is_alias.then_some(&event["event_id"]), "{event}");
    event
}

/// A hundred concurrent posts under one key: post n is sent to instance n % 2, with `body` of that instance.
async fn post_concurrently(pair: &IngestPair, key: &'static str, body: fn(usize) -> Value) -> Vec<(usize, Reply)> {
    let mut posts = JoinSet::new();
    for n in 0..100 {
        let api = pair.apis[n % 2].clone();
        posts.spawn(async move { (n % 2, api.post_event_as(key, &body(n % 2)).await) });
    }
    posts.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_posts_of_one_key_are_one_row_and_one_webhook() {
    let pair = IngestPair::start().await;
    let api = &pair.apis[0];
    let receiver = receiver(api).await;
    let consumers = pair.start_consumers().await;
    for round in ["one", "two", "three"] {
        let replies = post_concurrently(&pair, round, |_| json!({"event_type": "a", "payload": {"n": 1}})).await;
        let received = pair.wait_until_delivered(&receiver).await;
        assert_eq!(received.values().sum::<usize>(), 1, "one webhook: {received:?}");
        let mut originals = BTreeSet::new();
        let mut accepted = 0;
        for (_, reply) in replies {
            accepted += usize::from(reply.header("idempotency-replayed").is_empty());
            let reply = reply.expect(201);
            originals.insert(resolve(api, &id_of(&reply)).await["event_id"].as_str().unwrap().to_owned());
        }
        assert!((1..=2).contains(&accepted), "each instance accepts at most one: {accepted}");
        assert_eq!(
            originals.iter().collect::<Vec<_>>(),
            received.keys().collect::<Vec<_>>(),
            "every id resolves to the event that was sent"
        );
    }
    assert_eq!(api.inbox(50).await.len(), 3, "one row for each key");
    println!("{} records on the log for three events", pair.count_records().await);
    drop(consumers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn different_bodies_under_one_key_are_two_rows_and_webhooks() {
    let pair = IngestPair::start().await;
    let api = &pair.apis[0];
    let receiver = receiver(api).await;
    // Without a materializer, neither instance sees the event of the other, so both accept one.
    let replies =
        post_concurrently(&pair, "k", |instance| json!({"event_type": "a", "payload": {"body": instance}})).await;
    let mut ids: [BTreeSet<String>; 2] = [BTreeSet::new(), BTreeSet::new()];
    for (instance, reply) in replies {
        ids[instance].insert(id_of(&reply.expect(201)));
    }
    assert_eq!((ids[0].len(), ids[1].len()), (1, 1), "one record for each instance");
    // Each instance refuses the body of the other, from its dedup cache.
    for (instance, api) in pair.apis.iter().enumerate() {
        let other = api
            .post_event_as("k", &json!({"event_type": "a", "payload": {"body": 1 - instance}}))
            .await
            .expect(422)
            .json();
        assert_eq!(other["error_code"], "idempotency_key_reused");
    }
    let consumers = pair.start_consumers().await;
    let received = pair.wait_until_delivered(&receiver).await;
    assert_eq!(received.values().copied().collect::<Vec<_>>(), [1, 1], "{received:?}");
    let inbox = api.inbox(50).await;
    assert_eq!(inbox.len(), 2, "no accepted event is lost");
    for (instance, ids) in ids.iter().enumerate() {
        let event = resolve(api, ids.first().unwrap()).await;
        assert_eq!(
            (&event["payload"], event["event_id"].as_str()),
            (&json!({"body": instance}), ids.first().map(String::as_str))
        );
    }
    drop(consumers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_recognized_after_a_restart_of_ingest() {
    let system = System::shared().await;
    let (ingest, materializer, api) = system.inbox_roles(&[]).await;
    let body = |n: u32| json!({"event_type": "a", "payload": n});
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(id_of(&api.post_event_as(&format!("k{n}"), &body(1)).await.expect(201)));
    }
    api.shown(ids.last().unwrap(), PATIENCE).await;
    drop(ingest);

    let ingest = system.role("ingest", &[]);
    let mut api = api;
    api.base_url = ingest.ready().await;
    // On a busy machine a dedup lookup may time out, and the event is accepted. Of twenty keys, some are recognized.
    let (mut replayed, mut refused) = (0, 0);
    for (n, id) in ids.iter().enumerate() {
        let other = api.post_event_as(&format!("k{n}"), &body(2)).await;
        if other.status == 422 {
            assert_eq!(other.json()["error_code"], "idempotency_key_reused");
            refused += 1;
            let again = api.post_event_as(&format!("k{n}"), &body(1)).await.expect(201);
            if !again.header("idempotency-replayed").is_empty() {
                assert_eq!(id_of(&again), *id);
                replayed += 1;
            }
        }
    }
    println!("{refused} of 20 refused, {replayed} replayed");
    assert!(refused > 0 && replayed > 0, "{refused} refused, {replayed} replayed");
    drop((ingest, materializer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dedup_keys_are_separate_by_kind_and_organization() {
    let pair = IngestPair::start().await;
    let [api, other_instance] = &pair.apis;
    let stranger = Api::of_new_organization(&api.base_url, &pair.system.operator_token, "Other").await;
    let receiver = receiver(api).await;
    let event = |n: u32| json!({"event_type": "a", "payload": {"n": n}});
    let named = |n: u32| json!({"event_type": "a", "payload": {"n": n}, "dedup_id": "k"});

    // The same text as a dedup key of three kinds, and in two organizations, before the view has any of them.
    let by_name = [
        id_of(&api.post("/v1/events", &named(1)).await.expect(201)),
        id_of(&other_instance.post("/v1/events", &named(2)).await.expect(201)),
    ];
    let by_key = id_of(&api.post_event_as("k", &named(3)).await.expect(201));
    let foreign = id_of(&stranger.post("/v1/events", &named(1)).await.expect(201));
    let created = api
        .post("/v1/keys", &json!({"name": "content", "role": "produce", "content_dedup": true}))
        .await
        .expect(201)
        .json();
    let key = created["key"].as_str().unwrap();
    let mut by_content = Vec::new();
    for api in [api, other_instance] {
        let api = api.with_key(key);
        by_content.push(id_of(&api.post("/v1/events", &event(4)).await.expect(201)));
        let again = api.post("/v1/events", &event(4)).await.expect(200).json();
        assert_eq!(
            (again["event_id"].as_str(), &again["duplicate"]),
            (by_content.last().map(String::as_str), &json!(true))
        );
    }
    // With a key without `content_dedup`, equal content is not a duplicate.
    let plain = [
        id_of(&api.post("/v1/events", &event(4)).await.expect(201)),
        id_of(&api.post("/v1/events", &event(4)).await.expect(201)),
    ];

    let consumers = pair.start_consumers().await;
    let received = pair.wait_until_delivered(&receiver).await;
    let event_of = async |ids: &[String]| {
        let mut originals = BTreeSet::new();
        for id in ids {
            originals.insert(resolve(api, id).await["event_id"].as_str().unwrap().to_owned());
        }
        assert_eq!(originals.len(), 1, "{ids:?} resolve to one event");
        originals.pop_first().unwrap()
    };
    let expected: BTreeSet<String> =
        [event_of(&by_name).await, by_key.clone(), event_of(&by_content).await, plain[0].clone(), plain[1].clone()]
            .into();
    let shown: BTreeSet<String> = crate::api::ids(&api.inbox(50).await).into_iter().collect();
    assert_eq!(shown, expected);
    assert_eq!(received, expected.iter().map(|id| (id.clone(), 1)).collect(), "each event is sent once");
    assert_eq!(crate::api::ids(&stranger.inbox(50).await), [foreign]);
    // `dedup_id` is shown even if the Idempotency-Key is the dedup key.
    assert_eq!(resolve(api, &by_key).await["dedup_id"], "k");

    // The view has the duplicate decision now, so an instance without the key in its cache returns the original.
    let original = event_of(&by_name).await;
    let restarted = pair.system.role("ingest", &[]);
    let mut restarted_api = api.clone();
    restarted_api.base_url = restarted.ready().await;
    let reported = eventually(PATIENCE, "a repeat is recognized from the view", || async {
        let reply = restarted_api.post("/v1/events", &named(5)).await;
        (reply.status == 409).then(|| reply.json())
    })
    .await;
    // If a lookup timed out, the instance accepted another duplicate. Its id resolves to the original too.
    eventually(PATIENCE, "the id resolves to the original", || async {
        let event = api.get(&format!("/v1/events/{}", reported["event_id"].as_str()?)).await;
        (event.status == 200 && event.json()["event_id"] == original.as_str()).then_some(())
    })
    .await;
    drop(consumers);
}
