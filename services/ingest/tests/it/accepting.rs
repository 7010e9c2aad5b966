//! The record of an accepted event on the log, and the response to its producer.

use std::time::Instant;

use schemas::position::RecordPosition;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::bench::{Bench, KEY, send};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn success_means_the_whole_event_is_on_the_log() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let body = json!({
        "event_type": "order.created", "payload": {"id": 7}, "dedup_id": "ord-7", "timestamp": "2026-11-21T09:00:00Z",
        "source": "shop", "ordering_key": "customer-9", "metadata": {"k": "v"}, "unknown": 1,
    });
    let request = instance.event(body.to_string()).header("x-request-id", "req-1");
    let request = request.header("traceparent", TRACEPARENT).header("tracestate", "a=1, b=2");
    let answer = send(request).await.expect(201);

    let log = bench.log().await;
    let [record] = &log[..] else { panic!("{log:?}") };
    let event = &record.event;
    assert_eq!(record.key, bench.org.to_string());
    assert_eq!((event.org_id, event.event_id.to_string()), (bench.org, answer.text("event_id")));
    assert_eq!((event.event_type.as_str(), event.payload.as_str()), ("order.created", r#"{"id":7}"#));
    assert_eq!((event.source.as_deref(), event.ordering_key.as_deref()), (Some("shop"), Some("customer-9")));
    assert_eq!(event.occurred_at, Some(1_795_251_600_000_000));
    assert_eq!(event.metadata.get("k").map(String::as_str), Some("v"));
    assert_eq!(
        event.dedup.as_ref().map(|dedup| (dedup.kind.as_str(), dedup.key.as_str())),
        Some(("dedup_id", "ord-7"))
    );
    assert_eq!(event.traceparent.as_deref(), Some(TRACEPARENT));
    let expected = [
        ("content-type", "application/avro"),
        ("x-request-id", "req-1"),
        ("traceparent", TRACEPARENT),
        ("tracestate", "a=1, b=2"),
    ];
    for (name, value) in expected {
        assert_eq!(record.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    let key_id: String = sqlx::query_scalar("SELECT id::text FROM api_keys").fetch_one(&bench.pool).await.unwrap();
    assert_eq!(record.headers.get("triggers-key-id"), Some(&key_id));
    assert_eq!(record.headers.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracestate_without_a_traceparent_is_dropped() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let body = json!({"type": "a", "data": 1}).to_string();
    send(instance.event(body).header("traceparent", "none").header("tracestate", "a=1")).await.expect(201);
    let names: Vec<String> =
        bench.log().await[0].headers.keys().filter(|name| name.starts_with("trace")).cloned().collect();
    assert!(names.is_empty(), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_response_has_event_id_append_time_and_position() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let answer = instance.accept(&json!({"event_type": "a", "payload": null})).await.expect(201);
    let record = &bench.log().await[0];

    assert_eq!(answer.text("id"), answer.text("event_id"));
    assert_eq!(["event_type", "type", "status"].map(|field| answer.text(field)), ["a", "a", "accepted"]);
    assert!(!answer.text("message").is_empty());
    assert!(answer.body.get("duplicate").is_none());
    let timestamp = answer.text("timestamp");
    let reported = OffsetDateTime::parse(&timestamp, &Rfc3339).unwrap().unix_timestamp_nanos() / 1_000_000;
    assert_eq!(reported, i128::from(record.append_time_ms));
    assert_eq!((timestamp.len(), timestamp.ends_with('Z')), (24, true), "milliseconds, in UTC: {timestamp}");
    let position = instance
        .sealing
        .open_stable_token("position", bench.org.as_uuid().as_bytes(), &answer.text("position"))
        .unwrap();
    assert_eq!(
        RecordPosition::from_bytes(&position),
        Some(RecordPosition {
            partition: record.partition,
            offset: record.offset,
            appended_at_ms: record.append_time_ms
        })
    );
    assert_eq!(instance.written.last(bench.org.as_uuid(), Instant::now()), vec![(record.partition, record.offset + 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_differ_only_in_the_success_code() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    for (path, status) in [("/v1/events", 201), ("/events", 201), ("/api/events", 202)] {
        let request = instance.post(path).header("x-api-key", KEY).json(&json!({"type": "a", "data": 1}));
        let answer = send(request).await.expect(status);
        let location = (status == 201).then(|| format!("/v1/events/{}", answer.text("event_id")));
        assert_eq!(answer.header("location"), location.as_deref(), "{path}");
        assert_eq!(answer.text("status"), "accepted");
    }
    assert_eq!(bench.log().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_json_payload_is_kept_byte_for_byte_under_either_name() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let payloads = [
        "{ \"b\" : 7.0e0,\n\"a\":\"\\u0041\\/\u{e9}\",\"a\": 1e999 }",
        "null",
        "-0",
        "[1 , 2]",
        "\"\"",
        "12345678901234567890123",
    ];
    for payload in payloads {
        for body in
            [format!(r#"{{"event_type": "a", "payload": {payload}}}"#), format!(r#"{{"type":"a","data" :{payload} }}"#)]
        {
            send(instance.event(body)).await.expect(201);
        }
    }
    let mut kept: Vec<String> = bench.log().await.into_iter().map(|record| record.event.payload).collect();
    let mut sent: Vec<String> =
        payloads.iter().flat_map(|payload| [(*payload).to_owned(), (*payload).to_owned()]).collect();
    kept.sort();
    sent.sort();
    assert_eq!(kept, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_are_kept_or_generated_and_on_the_record() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let mut returned = Vec::new();
    for (name, value) in [("x-request-id", "mine-1"), ("x-correlation-id", "mine-2"), ("x-request-id", "not sane")] {
        let answer = send(instance.event(r#"{"type":"a","data":1}"#).header(name, value)).await.expect(201);
        assert_eq!(answer.header("x-request-id"), answer.header("x-correlation-id"));
        returned.push(answer.header("x-request-id").unwrap().to_owned());
    }
    assert_eq!((returned[0].as_str(), returned[1].as_str()), ("mine-1", "mine-2"));
    assert_ne!(returned[2], "not sane");
    let mut on_log: Vec<String> =
        bench.log().await.iter().map(|record| record.headers["x-request-id"].clone()).collect();
    on_log.sort();
    returned.sort();
    assert_eq!(on_log, returned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hops_of_a_request_go_onto_each_record() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let event = json!({"type": "a", "data": 1}).to_string();
    send(instance.event(event.clone()).header("triggers-hops", "3")).await.expect(201);
    send(instance.event(event.clone()).header("triggers-hops", "0")).await.expect(201);
    let batch = json!({"events": [{"type": "a", "data": 1}, {"type": "a", "data": 2}]}).to_string();
    let request = instance.batch("/v1/events/batch", "application/json", batch.clone());
    send(request.header("triggers-hops", "2")).await.expect(200);
    let log = bench.log().await;
    let mut hops: Vec<_> = log.iter().map(|record| record.headers.get("triggers-hops").map(String::as_str)).collect();
    hops.sort_unstable();
    assert_eq!(hops, [None, Some("2"), Some("2"), Some("3")]);

    for (value, status, code) in [("4", 508, "loop_detected"), ("04", 400, "invalid_request")] {
        for request in
            [instance.event(event.clone()), instance.batch("/v1/events/batch", "application/json", batch.clone())]
        {
            let refused = send(request.header("triggers-hops", value)).await.expect(status);
            assert_eq!(refused.text("error_code"), code);
            assert_eq!(refused.header("content-type"), Some("application/problem+json"));
            let field = &refused.body["details"][0]["field"];
            assert!(status == 508 || field == "triggers-hops", "{}", refused.body);
        }
    }
    assert_eq!(bench.log().await.len(), 4, "nothing of the refused requests is on the log");
}
