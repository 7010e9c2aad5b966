//! Replays and backfills from the outside: a system with all roles, under load, and with a dispatcher that is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use devstack::Signal;
use devstack::testing::eventually;
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};
use uuid::Uuid;

use crate::api::Api;
use crate::deliveries::RECEIVED_WITHIN;
use crate::system::System;

const RECEIVERS_HERE: &[(&str, &str)] = &[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "true")];

/// Posts so many events as one batch. Returns their ids.
async fn accept_batch(api: &Api, count: usize) -> Vec<String> {
    let events: Vec<Value> = (0..count).map(|n| json!({"event_type": "order.created", "payload": {"n": n}})).collect();
    let results = api.post("/v1/events/batch", &json!({"events": events})).await.expect(200).json();
    let id = |result: &Value| result["event_id"].as_str().unwrap().to_owned();
    results["results"].as_array().unwrap().iter().map(id).collect()
}

async fn finished(api: &Api, replay: &str) -> Value {
    eventually(RECEIVED_WITHIN, "the replay has finished", || async {
        let shown = api.get(&format!("/v1/replays/{replay}")).await.expect(200).json();
        (shown["status"] == "finished").then_some(shown)
    })
    .await
}

/// Events that came more or less often than once.
fn not_once(receiver: &Receiver, accepted: &[String]) -> BTreeMap<String, usize> {
    let counts = receiver.counts();
    let known = accepted.iter().map(|id| (id.clone(), counts.get(id).copied().unwrap_or(0)));
    known.filter(|(_, count)| *count != 1).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_arrives_once_around_a_backfill() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(RECEIVERS_HERE).await;
    let dispatcher = system.role("dispatcher", RECEIVERS_HERE);
    dispatcher.ready().await;
    // The dispatcher has passed the first events when an endpoint of that time has them.
    let witness = Receiver::start(ReceiverBehavior::Status(200)).await.with_patience(RECEIVED_WITHIN);
    api.post("/v1/endpoints", &json!({"url": witness.url()})).await.expect(201);
    let mut accepted = accept_batch(&api, 300).await;
    witness.wait_for_ids(&accepted).await;
    let stop = Arc::new(AtomicBool::new(false));
    let posters: Vec<_> = (0..2)
        .map(|_| {
            let (api, stop) = (api.clone(), stop.clone());
            tokio::spawn(async move {
                let mut posted = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    posted.push(api.accept("order.created", &json!({"n": posted.len()})).await);
                }
                posted
            })
        })
        .collect();
    // Each is created at another moment between two reads of the log.
    let mut backfilled = Vec::new();
    for n in 0..3 {
        accepted.extend(accept_batch(&api, 50 + n).await);
        let receiver = Receiver::start(ReceiverBehavior::Status(200)).await.with_patience(RECEIVED_WITHIN);
        let body = json!({"url": receiver.url(), "event_types": ["order.*"], "max_in_flight": 100,
                          "backfill_from": "2020-01-01T00:00:00Z"});
        let created = api.post("/v1/endpoints", &body).await.expect(201).json();
        accepted.extend(accept_batch(&api, 50).await);
        backfilled.push((receiver, created["replay_id"].as_str().unwrap().to_owned()));
    }
    for (_, replay) in &backfilled {
        finished(&api, replay).await;
    }
    stop.store(true, Ordering::Relaxed);
    for poster in posters {
        accepted.extend(poster.await.unwrap());
    }
    for (receiver, _) in &backfilled {
        receiver.wait_for_ids(&accepted).await;
    }
    // Whatever would come twice is scheduled by now: an event that is accepted after all others comes last.
    accepted.push(api.accept("order.created", &json!({"last": true})).await);
    for (receiver, replay) in &backfilled {
        receiver.wait_for_ids(&accepted).await;
        let shown = finished(&api, replay).await;
        assert!(shown["scheduled"].as_i64().unwrap() >= 300, "{shown}");
        assert_eq!(not_once(receiver, &accepted), BTreeMap::new(), "of {} events; {shown}", accepted.len());
        assert_eq!(receiver.counts().len(), accepted.len(), "nothing else comes");
    }
    let pool = system.database().await;
    let open: i64 = sqlx::query_scalar("SELECT count(*) FROM delivery_schedule WHERE state = 'pending'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(open, 0, "nothing more is to come");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_goes_on_after_sigkill() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(RECEIVERS_HERE).await;
    let mut dispatcher = system.role("dispatcher", RECEIVERS_HERE);
    dispatcher.ready().await;
    // The dispatcher has passed these events when an endpoint of that time has them.
    let witness = Receiver::start(ReceiverBehavior::Status(200)).await.with_patience(RECEIVED_WITHIN);
    api.post("/v1/endpoints", &json!({"url": witness.url()})).await.expect(201);
    let mut accepted = Vec::new();
    for _ in 0..4 {
        accepted.extend(accept_batch(&api, 500).await);
    }
    witness.wait_for_ids(&accepted).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await.with_patience(RECEIVED_WITHIN);
    let (url, from) = (receiver.url(), "2020-01-01T00:00:00Z");
    let created = system.run_as(&api, &["endpoint", "create", &url, "--backfill-from", from]).await.expect(0).json();
    let replay = created[0]["replay_id"].as_str().unwrap().to_owned();
    receiver.wait_for(100).await;
    dispatcher.signal(Signal::KILL);
    dispatcher.ended().await;
    let killed_at = receiver.counts();
    assert!(killed_at.len() < accepted.len(), "it was killed in the middle");
    let unwritten: Vec<Uuid> =
        sqlx::query_scalar("SELECT event_id FROM delivery_schedule WHERE state = 'pending' AND lease_id IS NOT NULL")
            .fetch_all(&system.database().await)
            .await
            .unwrap();
    accepted.extend(accept_batch(&api, 100).await);
    let dispatcher = system.role("dispatcher", RECEIVERS_HERE);
    dispatcher.ready().await;
    let shown = system.run_as(&api, &["replay", "show", &replay, "--wait"]).await.expect(0).json();
    assert_eq!((&shown[0]["status"], &shown[0]["scheduled"]), (&json!("finished"), &json!(2_000)), "{}", shown[0]);
    receiver.wait_for_ids(&accepted).await;
    let twice: BTreeSet<String> = not_once(&receiver, &accepted).into_keys().collect();
    let may_repeat = |id: &String| killed_at.contains_key(id) && unwritten.iter().any(|one| one.to_string() == *id);
    assert!(twice.iter().all(may_repeat), "only attempts without a written outcome are repeated: {twice:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_replay_events_and_rotate_a_secret() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(RECEIVERS_HERE).await;
    let dispatcher = system.role("dispatcher", RECEIVERS_HERE);
    dispatcher.ready().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await.with_patience(RECEIVED_WITHIN);
    let earlier = Receiver::start(ReceiverBehavior::Status(200)).await.with_patience(RECEIVED_WITHIN);
    system.run_as(&api, &["endpoint", "create", &earlier.url()]).await.expect(0);
    let reply = api.post("/v1/events", &json!({"event_type": "order.created", "payload": {"n": 1}})).await.expect(201);
    let (first, position) = (reply.json()["event_id"].clone(), reply.json()["position"].clone());
    let accepted = accept_batch(&api, 2).await;
    api.shown(&accepted[1], Duration::from_secs(30)).await;
    // An endpoint gets what the dispatcher reads after it was created, also if that was accepted before.
    earlier.wait_for(3).await;
    let created = system.run_as(&api, &["endpoint", "create", &receiver.url()]).await.expect(0).json();
    let endpoint = created[0]["id"].as_str().unwrap().to_owned();
    let counted = system.run_as(&api, &["endpoint", "replay", &endpoint, "--dry-run"]).await.expect(0).json();
    assert_eq!(counted, [json!({"matched": 3, "matched_is_lower_bound": false})]);
    let ended = system.run_as(&api, &["endpoint", "replay", &endpoint, "--wait"]).await.expect(0).json();
    assert_eq!((&ended[0]["status"], &ended[0]["scheduled"]), (&json!("finished"), &json!(3)), "{}", ended[0]);
    receiver.wait_for(3).await;

    // The view shows that they were delivered, so nothing is missing; all of them can be sent again.
    eventually(RECEIVED_WITHIN, "the deliveries are shown", || async {
        let page = api.get(&format!("/v1/endpoints/{endpoint}/deliveries?status=delivered")).await.expect(200).json();
        (page["deliveries"].as_array().unwrap().len() == 3).then_some(())
    })
    .await;
    let none = system.run_as(&api, &["endpoint", "replay", &endpoint, "--wait"]).await.expect(0).json();
    assert_eq!(none[0]["matched"], 0, "{}", none[0]);
    let again = ["endpoint", "replay", &endpoint, "--only", "all", "--from-position", position.as_str().unwrap()];
    let started = system.run_as(&api, &again).await.expect(0).json();
    let replay = started[0]["replay_id"].as_str().unwrap().to_owned();
    assert_eq!(finished(&api, &replay).await["scheduled"], 3);
    receiver.wait_for(6).await;
    assert_eq!(receiver.counts().get(first.as_str().unwrap()), Some(&2));
    let shown = system.run_as(&api, &["replay", "cancel", &replay]).await.expect(0).json();
    assert_eq!(shown[0]["status"], "finished", "one that has ended stays as it is");
    system.run_as(&api, &["endpoint", "replay", &endpoint, "--only", "none"]).await.expect(2);
    system.run_as(&api, &["replay", "show", "nonsense"]).await.expect(2);

    let rotated = system.run_as(&api, &["endpoint", "rotate", &endpoint, "--overlap-seconds", "60"]).await.expect(0);
    let secret = rotated.json()[0]["secret"].clone();
    assert!(secret != created[0]["secret"] && secret.as_str().unwrap().starts_with("whsec_"));
}
