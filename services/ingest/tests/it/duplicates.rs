//! Duplicates, recognized by their dedup keys in the cache of the instance and in the view.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use kafka::producer::{Producer, ProducerSettings};
use runtime::postgres::{self, PostgresConfig};
use schemas::records::Event;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::bench::{Bench, Instance, KEY, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_dedup_id_is_409_with_the_original_id() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let first = instance.accept(&json!({"type": "a", "data": 1, "dedup_id": "d"})).await.expect(201);
    for path in ["/v1/events", "/api/events"] {
        let duplicate =
            send(instance.post(path).bearer_auth(KEY).json(&json!({"type": "b", "data": 2, "dedup_id": "d"})))
                .await
                .expect(409);
        assert_eq!(
            (duplicate.text("error_code"), duplicate.text("event_id")),
            ("duplicate_event".to_owned(), first.text("event_id"))
        );
    }
    // An idempotency key with the same text is a different dedup key.
    instance.accept_as("d", &json!({"type": "a", "data": 1, "dedup_id": "d"})).await.expect(201);
    assert_eq!(bench.log().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restricted_key_learns_no_id_of_other_types() {
    let bench = Bench::start().await;
    let before = bench.instance().await;
    let key = before.key(json!({"role": "produce", "event_types": ["a"]})).await;
    let mut ids = Vec::new();
    for event_type in ["secret", "a"] {
        let body = json!({"type": event_type, "data": 1, "dedup_id": event_type});
        ids.push(before.accept(&body).await.expect(201).text("event_id"));
    }
    for record in bench.log().await {
        store_dedup_key(&bench, &record.event, "1 hour").await;
        store_event(&bench, &record.event).await;
    }
    let check = async |instance: &Instance, place: &str| {
        let body = |dedup_id: &str| json!({"type": "a", "data": 2, "dedup_id": dedup_id});
        let single = |body| send(instance.post("/v1/events").bearer_auth(&key).json(&body));
        let (hidden, shown) = (single(body("secret")).await, single(body("a")).await);
        if (hidden.status, shown.status) != (StatusCode::CONFLICT, StatusCode::CONFLICT) {
            return None;
        }
        assert_eq!(hidden.text("error_code"), "duplicate_event", "{place}");
        assert!(hidden.text("detail").starts_with("Duplicate event detected"), "{place}");
        assert!(!hidden.body.to_string().contains(&ids[0]), "{place}: {}", hidden.body);
        assert_eq!(shown.text("event_id"), ids[1], "{place}: it may see this type");
        let items = json!({"events": [body("secret"), body("a")]});
        let batch = send(instance.post("/v1/events/batch").bearer_auth(&key).json(&items)).await.expect(207).body;
        assert!(!batch.to_string().contains(&ids[0]), "{place}: {batch}");
        assert_eq!((&batch["duplicates"], &batch["results"][1]["event_id"]), (&json!(2), &json!(ids[1])), "{place}");
        Some(())
    };
    check(&before, "the cache").await.expect("both are in the cache");
    // A lookup may time out on a busy machine, and then the event is rightly accepted.
    for _ in 0..20 {
        if check(&bench.instance().await, "the view").await.is_some() {
            return;
        }
    }
    panic!("recognized by none of twenty instances");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_replays_the_response_on_all_mounts() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let body = json!({"type": "a", "data": 1});
    let first = instance.accept_as("k", &body).await.expect(201);
    assert_eq!(first.header("idempotency-replayed"), None);
    for (path, status) in [("/v1/events", 201), ("/events", 201), ("/api/events", 202)] {
        let request = instance.post(path).bearer_auth(KEY).header("idempotency-key", "k").json(&body);
        let duplicate = send(request).await.expect(status);
        assert_eq!(duplicate.header("idempotency-replayed"), Some("true"), "{path}");
        assert_eq!(duplicate.body, first.body, "{path}");
    }
    let other = instance.accept_as("k", &json!({"type": "a", "data": 2})).await.expect(422);
    assert_eq!(other.text("error_code"), "idempotency_key_reused");
    assert_eq!(bench.log().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_successes_are_cached() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    instance.accept_as("k", &json!({"type": "", "data": 1})).await.expect(400);
    let accepted = instance.accept_as("k", &json!({"type": "a", "data": 1})).await.expect(201);
    assert_eq!(accepted.header("idempotency-replayed"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_content_is_a_duplicate_for_keys_with_content_dedup() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let key = instance.key(json!({"role": "produce", "content_dedup": true})).await;
    let post = async |path: &str, data: u32| {
        send(instance.post(path).bearer_auth(&key).json(&json!({"type": "a", "data": data}))).await
    };
    let first = post("/v1/events", 1).await.expect(201);
    for path in ["/v1/events", "/api/events"] {
        let duplicate = post(path, 1).await.expect(200);
        assert_eq!((duplicate.text("event_id"), &duplicate.body["duplicate"]), (first.text("event_id"), &json!(true)));
    }
    post("/v1/events", 2).await.expect(201);
    // Keys without content_dedup may send equal content again.
    instance.accept(&json!({"type": "a", "data": 1})).await.expect(201);
    assert_eq!(bench.log().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_concurrent_duplicates_are_one_record_and_one_id() {
    let bench = Bench::start().await;
    let instance = Arc::new(bench.instance().await);
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let instance = instance.clone();
        requests.spawn(async move { instance.accept_as("k", &json!({"type": "a", "data": 1})).await.expect(201) });
    }
    let answers = requests.join_all().await;
    let ids: HashSet<String> = answers.iter().map(|answer| answer.text("event_id")).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(answers.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).count(), 1);
    assert_eq!(bench.log().await.len(), 1);
}

/// Writes the row that the materializer would write for the dedup key of the event.
async fn store_dedup_key(bench: &Bench, event: &Event, expires: &str) {
    let dedup = event.dedup.as_ref().unwrap();
    let statement = "INSERT INTO dedup_keys (org_id, kind, key, event_id, body_hash, accepted_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, now(), now() + $6::text::interval)";
    let query = sqlx::query(statement).bind(event.org_id.as_uuid()).bind(dedup.kind.as_str()).bind(&dedup.key);
    query.bind(event.event_id.as_uuid()).bind(&dedup.body_hash).bind(expires).execute(&bench.pool).await.unwrap();
}

/// Writes the row of the inbox that the materializer would write for an event with a stored dedup key.
async fn store_event(bench: &Bench, event: &Event) {
    sqlx::query(
        "INSERT INTO view.events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type,
                                  payload)
         SELECT org_id, event_id, 1, 0, 0, accepted_at, $2, '1' FROM dedup_keys WHERE event_id = $1",
    )
    .bind(event.event_id.as_uuid())
    .bind(&event.event_type)
    .execute(&bench.pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_duplicates_are_found_in_the_view() {
    let bench = Bench::start().await;
    let before = bench.instance().await;
    let body = json!({"type": "a", "data": 1, "dedup_id": "d"});
    let by_dedup_id = before.accept(&body).await.expect(201);
    let by_key = before.accept_as("k", &body).await.expect(201);
    for record in bench.log().await {
        store_dedup_key(&bench, &record.event, "1 hour").await;
    }
    drop(before);

    // A lookup may time out on a busy machine, and then the event is rightly accepted; a new instance looks up again.
    let recognized = async {
        for _ in 0..20 {
            let after = bench.instance().await;
            let (duplicate, replay) = (after.accept(&body).await, after.accept_as("k", &body).await);
            let other = after.accept_as("k", &json!({"type": "a", "data": 2})).await;
            if duplicate.status == 409 && replay.header("idempotency-replayed").is_some() && other.status == 422 {
                return Some((duplicate, replay, other));
            }
        }
        None
    };
    let (duplicate, replay, other) = recognized.await.expect("recognized by one of twenty instances");
    assert_eq!(duplicate.text("event_id"), by_dedup_id.text("event_id"));
    assert_eq!(replay.expect(201).text("event_id"), by_key.text("event_id"));
    assert_eq!(other.text("error_code"), "idempotency_key_reused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dedup_key_past_its_window_can_be_used_again() {
    let bench = Bench::start().await;
    let before = bench.instance().await;
    let body = json!({"type": "a", "data": 1});
    let first = before.accept_as("k", &body).await.expect(201);
    store_dedup_key(&bench, &bench.log().await[0].event, "-1 second").await;
    let again = bench.instance().await.accept_as("k", &body).await.expect(201);
    assert_ne!(again.text("event_id"), first.text("event_id"));
    assert_eq!(bench.log().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_result_is_not_cached_past_the_window() {
    let bench = Bench::start().await;
    let key = bench.instance().await.key(json!({"role": "produce", "content_dedup": true})).await;
    let body = json!({"type": "a", "data": 1});
    let post = async |instance: &Instance| send(instance.post("/v1/events").bearer_auth(&key).json(&body)).await;
    post(&bench.instance().await).await.expect(201);
    store_dedup_key(&bench, &bench.log().await[0].event, "1 hour").await;
    // A new instance, which recognizes the duplicate only by the view.
    let mut recognized = None;
    for _ in 0..20 {
        let instance = bench.instance().await;
        if post(&instance).await.status == 200 {
            recognized = Some(instance);
            break;
        }
    }
    let instance = recognized.expect("recognized by one of twenty instances");
    sqlx::query("UPDATE dedup_keys SET expires_at = now() - interval '1 second'").execute(&bench.pool).await.unwrap();
    post(&instance).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_accepted_while_the_view_does_not_answer() {
    let bench = Bench::start().await;
    // One server refuses connections; the other accepts them and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), refusing] {
        let pool = postgres::connect(&PostgresConfig::new(format!("postgres://nobody@{address}/nothing"))).unwrap();
        let producer = Producer::new(&bench.kafka, ProducerSettings::default()).unwrap();
        let instance = bench.instance_with(producer, pool).await;
        // The first event connects the producer.
        instance.accept(&json!({"type": "a", "data": 1})).await.expect(201);
        let started = Instant::now();
        let body = json!({"type": "a", "data": 1, "dedup_id": address.to_string()});
        instance.accept(&body).await.expect(201);
        // Far below every database timeout, far above the time that a busy machine needs.
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        instance.accept(&body).await.expect(409);
    }
    assert_eq!(bench.log().await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_and_id_are_the_dedup_key_of_every_cloudevent() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let post = async |source: &str, id: &str| {
        let request =
            instance.post("/v1/events").bearer_auth(KEY).header("content-type", "application/cloudevents+json");
        send(
            request.body(json!({"specversion": "1.0", "type": "a", "source": source, "id": id, "data": 1}).to_string()),
        )
        .await
    };
    let first = post("/shop", "1").await.expect(201);
    let duplicate = post("/shop", "1").await.expect(409);
    assert_eq!(duplicate.text("event_id"), first.text("event_id"));
    let binary = instance.post("/v1/events").bearer_auth(KEY).header("content-type", "application/json");
    let binary = binary
        .header("ce-specversion", "1.0")
        .header("ce-type", "b")
        .header("ce-source", "/shop")
        .header("ce-id", "1")
        .body("2");
    assert_eq!(send(binary).await.expect(409).text("event_id"), first.text("event_id"));
    post("/shop", "2").await.expect(201);
    post("/store", "1").await.expect(201);
    assert_eq!(bench.log().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_covers_cloudevents_attribute_headers() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let post = async |event_type: &str, id: &str, content_type: &str, trace: &str| {
        let request = instance
            .post("/v1/events")
            .bearer_auth(KEY)
            .header("content-type", content_type)
            .header("idempotency-key", "k");
        let request = request
            .header("ce-specversion", "1.0")
            .header("ce-type", event_type)
            .header("ce-source", "/shop")
            .header("ce-id", id);
        send(request.header("ce-traceparent", trace).body("{}")).await
    };
    let json = "application/json";
    let first =
        post("order.created", "1", json, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").await.expect(201);
    let retry =
        post("order.created", "1", json, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01").await.expect(201);
    assert_eq!(retry.text("event_id"), first.text("event_id"));
    for (event_type, id, content_type) in
        [("order.deleted", "1", json), ("order.created", "2", json), ("order.created", "1", "text/plain")]
    {
        post(event_type, id, content_type, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").await.expect(422);
    }
    assert_eq!(bench.log().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dedup_id_beside_an_idempotency_key_is_only_stored() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let body = json!({"type": "a", "data": 1, "dedup_id": "d"});
    instance.accept_as("k", &body).await.expect(201);
    instance.accept_as("l", &body).await.expect(201);
    instance.accept(&body).await.expect(201);
    let mut keys: Vec<_> = bench
        .log()
        .await
        .into_iter()
        .map(|record| record.event.dedup.unwrap())
        .map(|dedup| (dedup.key, dedup.dedup_id))
        .collect();
    keys.sort();
    let beside = Some("d".to_owned());
    assert_eq!(keys, [("d".to_owned(), None), ("k".to_owned(), beside.clone()), ("l".to_owned(), beside)]);
}
