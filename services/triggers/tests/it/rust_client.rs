//! The Rust client (`clients/rust`) against the roles: retries store once, batches, the inbox, webhooks, refusals.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use devstack::testing::{eventually, read_topic};
use rdkafka::message::Message as _;
use schemas::topics;
use serde_json::{Value, json};
use testkit::answer_proxy::AnswerProxy;
use testkit::receiver::{Receiver, ReceiverBehavior};
use triggers_client::{Accepted, Client, DeliveryStatus, Error, Event, EventStatus, InboxEvent, Page, webhook};

use crate::api::{Api, http};
use crate::outgoing::redirecting;
use crate::process::Process;
use crate::system::System;

/// A busy machine shares its processors among many tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Allows webhooks to receivers on this machine.
const RECEIVERS: [(&str, &str); 2] = [("WEBHOOK_ALLOW_HTTP", "true"), ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")];

fn client_at(base_url: &str, key: &str) -> Client {
    Client::builder().url(base_url).key(key).build().unwrap()
}

fn client(api: &Api) -> Client {
    client_at(&api.base_url, &api.key)
}

fn event(id: usize) -> Event {
    Event::new("order.created", &json!({"id": id})).unwrap()
}

/// The ids of all events, by pages of `limit`.
async fn inbox(client: &Client, limit: u32) -> Vec<String> {
    let mut request = client.inbox().limit(limit);
    let mut ids = Vec::new();
    loop {
        let page = request.page().await.unwrap();
        assert!(page.events.len() <= limit as usize && !page.gap);
        ids.extend(page.events.into_iter().map(|event| event.event_id));
        match page.next_cursor {
            Some(cursor) => request = client.inbox().limit(limit).cursor(cursor),
            None => return ids,
        }
    }
}

async fn records(system: &System) -> usize {
    let records = read_topic(&system.brokers, &system.topic(topics::EVENTS)).await;
    records.iter().filter(|record| record.payload().is_some()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_a_lost_answer_stores_once() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let proxy = AnswerProxy::start(&api.base_url).await;
    let client = client_at(&proxy.url, &api.key);

    let answered = |accepted: &Accepted| (accepted.attempts, accepted.duplicate);
    let mut ids = Vec::new();
    for (what, event) in [("a random key", event(1)), ("a dedup id", event(2).dedup_id("two"))] {
        proxy.lose_answers(2);
        let accepted = client.send(&event).await.unwrap();
        assert_eq!(answered(&accepted), (3, true), "{what}: two answers were lost");
        ids.push(accepted.event_id);
    }
    proxy.lose_answers(1);
    let accepted = client.send_with_key(&event(3), "three").await.unwrap();
    assert_eq!(client.send_with_key(&event(3), "three").await.unwrap().event_id, accepted.event_id);
    ids.push(accepted.event_id);
    let reused = client.send_with_key(&event(4), "three").await.unwrap_err();
    assert_eq!((reused.code(), reused.is_retryable()), (Some("idempotency_key_reused"), false));

    proxy.lose_answers(1);
    for accepted in client.send_batch([event(5), event(6).dedup_id("six"), event(5)]).await {
        let accepted = accepted.unwrap();
        assert_eq!(answered(&accepted), (2, true), "the whole batch was sent again");
        ids.push(accepted.event_id);
    }
    assert_eq!(records(&system).await, 6, "each event is on the log once");
    eventually(PATIENCE, "the inbox shows each event once, in order", || async {
        (inbox(&client, 4).await == ids).then_some(())
    })
    .await;

    proxy.lose_answers(1);
    assert_eq!(client.ack(&ids).await.unwrap().acknowledged, 6, "an acknowledgement can be repeated");
    assert_eq!((inbox(&client, 4).await.len(), proxy.left()), (0, 0));

    proxy.lose_answers(usize::MAX);
    let impatient = Client::builder().url(&proxy.url).key(&api.key).retry_budget(Duration::ZERO).build().unwrap();
    let error = impatient.send(&event(7)).await.unwrap_err();
    assert!(matches!(error, Error::NoAnswer { .. }) && error.is_retryable(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_and_a_stream_of_many_requests_and_pages() {
    const EVENTS: usize = 1_203;
    let system = System::shared().await;
    let (ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let client = client(&api);

    let mut batch: Vec<Event> = (0..EVENTS).map(event).collect();
    batch.insert(700, Event::new("", &1).unwrap());
    batch.insert(701, event(0).dedup_id("once"));
    batch.push(event(0).dedup_id("once"));
    let results = client.send_batch(batch).await;
    assert_eq!(results.len(), EVENTS + 3);
    let refused = results[700].as_ref().unwrap_err();
    assert_eq!((refused.code(), refused.problem().unwrap().status), (Some("invalid_event"), 400));
    assert_eq!(refused.problem().unwrap().fields[0].field, "event_type");
    let original = results[701].as_ref().unwrap().event_id.clone();
    let repeated = results.last().unwrap().as_ref().unwrap();
    assert_eq!((repeated.duplicate, &repeated.event_id), (true, &original), "over the bound of a request");
    let sent: Vec<&Accepted> =
        results.iter().filter_map(|result| result.as_ref().ok()).filter(|accepted| !accepted.duplicate).collect();
    assert_eq!(sent.len(), EVENTS + 1);

    let position = sent.last().unwrap().position.clone().unwrap();
    let mut events = client.inbox().limit(500).min_position(&position).events();
    let (mut cursors, mut after_600) = (BTreeSet::new(), Vec::new());
    for (number, accepted) in sent.iter().enumerate() {
        let event = events.next().await.unwrap();
        assert_eq!(event.event_id, accepted.event_id, "in the order of the batch");
        cursors.extend(events.cursor().map(str::to_owned));
        if number == 600 {
            after_600 = cursors.iter().cloned().collect();
        }
    }
    assert_eq!(cursors.len(), 3, "one for each page");
    assert!(!events.gap());

    let (next, later) = tokio::join!(events.next(), async {
        // The stream waits: the inbox has no more.
        eventually(PATIENCE, "a long poll waits", || async {
            metrics(&ingest).await.contains(r#"triggers_budget_held{budget="long_polls"} 1"#).then_some(())
        })
        .await;
        client.send(&Event::from_json("late", r#"{"n": 1.10, "n":12345678901234567890123}"#).unwrap()).await
    });
    let (next, later) = (next.unwrap(), later.unwrap());
    assert_eq!(next.event_id, later.event_id, "a waiting stream gets what arrives");
    assert_eq!(next.payload.get(), r#"{"n": 1.10, "n":12345678901234567890123}"#);

    let mut resumed = client.inbox().cursor(after_600.remove(0)).events();
    assert_eq!(resumed.next().await.unwrap().event_id, sent[500].event_id, "a stored cursor starts with its next page");
    let newest = client.inbox().newest_first().limit(1).page().await.unwrap();
    assert_eq!(newest.events[0].event_id, later.event_id);
    assert_eq!(newest.pagination.total_undelivered, Some(EVENTS as u64 + 2));
    let late = client.inbox().event_type("late").event_type("none").page().await.unwrap();
    assert_eq!((late.events.len(), late.next_cursor), (1, None));

    let unknown = "01990a52-7c1e-7d7e-9a3e-2f6f0f5f2a10";
    let ids = sent.iter().map(|accepted| accepted.event_id.as_str()).chain([unknown]);
    let done = client.ack(ids).await.unwrap();
    assert_eq!((done.acknowledged, done.not_found), (EVENTS as u64 + 1, vec![unknown.to_owned()]));
    assert_eq!(inbox(&client, 1_000).await, [later.event_id]);
    assert!(client.get(&original).await.unwrap().unwrap().acknowledged_at.is_some());
    let status = client.status(&original).await.unwrap().unwrap();
    assert_eq!((status.status, status.deliveries.len()), (DeliveryStatus::Pending, 0));
    assert!(client.get(unknown).await.unwrap().is_none() && client.status(unknown).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_of_the_dispatcher_is_verified() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&RECEIVERS).await;
    let dispatcher = system.role("dispatcher", &RECEIVERS);
    dispatcher.ready().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(204)).await.with_patience(PATIENCE);
    let endpoint = api.post("/v1/endpoints", &json!({"url": receiver.url()})).await.expect(201).json();
    let secret = endpoint["secret"].as_str().unwrap();

    let client = client(&api);
    let payload = r#"{"total": 12.50, "ключ":"значение"}"#;
    let accepted = client.send(&Event::from_json("order.created", payload).unwrap()).await.unwrap();
    let received = receiver.wait_for(1).await.remove(0);
    let verify = |secret: &str, body: &[u8], now: SystemTime| {
        webhook::verify(secret, &received.headers, body, now, webhook::TOLERANCE)
    };
    let now = SystemTime::now();
    assert_eq!(verify(secret, &received.body, now), Ok(()), "{:?}", received.headers);
    let other = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    assert_eq!(verify(other, &received.body, now), Err(webhook::VerifyError::Signature));
    assert_eq!(verify(secret, &received.body[1..], now), Err(webhook::VerifyError::Signature));
    let later = now + Duration::from_secs(3_600);
    assert_eq!(verify(secret, &received.body, later), Err(webhook::VerifyError::Timestamp));
    let timestamp = received.header("webhook-timestamp").parse().unwrap();
    let signature = webhook::sign(secret, &received.id(), timestamp, &received.body).unwrap();
    assert_eq!(signature, received.header("webhook-signature"), "both sides sign the same");

    let event: webhook::WebhookEvent = serde_json::from_slice(&received.body).unwrap();
    assert_eq!((event.event_id, event.data.get()), (accepted.event_id.clone(), payload));
    eventually(PATIENCE, "the delivery is reported", || async {
        let status = client.status(&accepted.event_id).await.unwrap()?;
        (status.status == DeliveryStatus::Delivered)
            .then(|| assert_eq!(status.deliveries[0].last_status_code, Some(204)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_waited_for_if_that_helps() {
    let system = System::shared().await;
    let (ingest, _materializer, api) = system.inbox_roles(&[("MAX_LONG_POLLS_PER_ORGANIZATION", "50")]).await;

    let started = Instant::now();
    let error = client_at(&api.base_url, "zap_live_unknown").send(&event(1)).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Some("unauthorized"), false));
    assert!(!format!("{error} {error:?}").contains("zap_live_unknown"), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "there is no retry");

    // A long poll by status takes all places. The one for events is refused until they are free.
    let long = Duration::from_secs(30);
    let by_status = client(&api).inbox().status(DeliveryStatus::Failed).wait(long);
    let by_status = tokio::spawn(async move { by_status.page().await });
    eventually(PATIENCE, "all places are taken", || async {
        metrics(&ingest).await.contains(r#"triggers_budget_held{budget="long_polls"} 50"#).then_some(())
    })
    .await;
    let proxy = AnswerProxy::start(&api.base_url).await;
    let waiting = client_at(&proxy.url, &api.key).inbox().wait(long);
    let waiting = tokio::spawn(async move { waiting.page().await });
    eventually(PATIENCE, "it is refused", || async { proxy.has_answered().then_some(()) }).await;
    by_status.abort();
    let accepted = client(&api).send(&event(1)).await.unwrap();
    let page = waiting.await.unwrap().unwrap();
    assert_eq!(page.events[0].event_id, accepted.event_id, "429 is waited for");

    let limited = limited(&api).await;
    let refused = limited.send(&event(3)).await.unwrap_err();
    assert_eq!((refused.code(), refused.is_retryable()), (Some("rate_limit_exceeded"), true));
    assert!(refused.retry_after().unwrap() >= Duration::from_secs(1));
}

/// `/metrics` of a role, which listens on a port of its own.
async fn metrics(role: &Process) -> String {
    let mut texts = String::new();
    for url in role.listens_at() {
        let answer = http().get(format!("{url}/metrics")).send().await.unwrap();
        texts.push_str(&answer.text().await.unwrap());
    }
    texts
}

/// A client whose key has spent its one request of the minute, and that does not wait so long.
async fn limited(api: &Api) -> Client {
    let body = json!({"name": "limited", "role": "produce", "rate_limit_per_minute": 1});
    let created: Value = api.post("/v1/keys", &body).await.expect(201).json();
    let key = created["key"].as_str().unwrap();
    let client = Client::builder().url(&api.base_url).key(key).retry_budget(Duration::from_secs(2)).build().unwrap();
    client.send(&event(2)).await.unwrap();
    client
}

#[tokio::test]
async fn the_client_follows_no_redirect() {
    let other = Receiver::start(ReceiverBehavior::Status(200)).await;
    let (url, received) = redirecting(other.url()).await;
    let error = client_at(&url, "zap_test_secret").send(&event(1)).await.unwrap_err();
    assert!(error.to_string().contains(&format!("redirects to {}", other.url())), "{error}");
    assert_eq!(received.lock().unwrap().len(), 1, "there is no retry");
    assert!(other.received().is_empty(), "nobody else gets the event or the key");
}

#[test]
fn the_client_reads_the_examples_of_the_openapi_document() {
    let document: Value = serde_json::from_str(include_str!("../../../../schemas/openapi.json")).unwrap();
    let schemas = &document["components"]["schemas"];
    let example = |name: &str| schemas[name]["example"].to_string();
    serde_json::from_str::<Page>(&example("InboxPage")).unwrap();
    serde_json::from_str::<InboxEvent>(&example("Event")).unwrap();
    serde_json::from_str::<EventStatus>(&example("EventStatus")).unwrap();
    let statuses = schemas["DeliveryStatus"]["enum"].as_array().unwrap();
    for status in statuses {
        let read: DeliveryStatus = serde_json::from_value(status.clone()).unwrap();
        assert_ne!(read, DeliveryStatus::Unknown, "{status} is a status that the client knows");
    }
    assert!(statuses.len() >= 4, "{statuses:?}");
}
