//! Refused requests and their responses. No refused event reaches the log.

use serde_json::{Value, json};

use crate::bench::{Bench, KEY, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_events_are_400_or_422_on_api_with_the_fields() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let long = "x".repeat(256);
    let pairs: serde_json::Map<String, Value> = (0..33).map(|n| (n.to_string(), json!("v"))).collect();
    let deep = format!(r#"{{"type":"a","data":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
    let with = |field: &str, value: Value| {
        let mut body = json!({"type": "a", "data": 1});
        body[field] = value;
        body.to_string()
    };
    let cases: Vec<(String, &str)> = vec![
        (r#"{"data": 1}"#.to_owned(), "event_type"),
        (r#"{"type": "a"}"#.to_owned(), "payload"),
        (r#"{"type": " a", "data": 1}"#.to_owned(), "type"),
        (r#"{"type": "", "data": 1}"#.to_owned(), "type"),
        (r#"{"type": "a\u0007", "data": 1}"#.to_owned(), "type"),
        (r#"{"type": "a", "event_type": "b", "data": 1}"#.to_owned(), "event_type"),
        (r#"{"type": "a", "payload": 1, "data": 2}"#.to_owned(), "payload"),
        (r#"{"type": "a", "data": "\ud800"}"#.to_owned(), "data"),
        (deep, "data"),
        (with("type", json!(long)), "type"),
        (with("type", json!(7)), "type"),
        (with("dedup_id", json!(long)), "dedup_id"),
        (with("source", json!("")), "source"),
        (with("ordering_key", json!(long)), "ordering_key"),
        (with("timestamp", json!("yesterday")), "timestamp"),
        (with("metadata", json!({"k": 1})), "metadata.k"),
        (with("metadata", Value::Object(pairs)), "metadata"),
    ];
    for (body, field) in cases {
        for (path, status) in [("/v1/events", 400), ("/events", 400), ("/api/events", 422)] {
            let request =
                instance.post(path).bearer_auth(KEY).header("content-type", "application/json").body(body.clone());
            let answer = send(request).await;
            assert_eq!(
                (answer.status.as_u16(), answer.text("error_code")),
                (status, "invalid_event".to_owned()),
                "{path} {body:.200}: {answer:?}"
            );
            assert_eq!(answer.body["details"][0]["field"], field, "{body:.200}");
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        }
    }
    assert_eq!(bench.log().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_bodies_are_refused_with_line_and_column() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let bodies: [&[u8]; 8] = [
        b"",
        b"[]",
        b"{\"type\": \"a\", \"data\": 1",
        b"{\"type\": \"a\", \"data\": 1} x",
        b"\xEF\xBB\xBF{\"type\": \"a\", \"data\": 1}",
        b"{\"type\": \"a\xFF\", \"data\": 1}",
        b"{\"type\": \"\\ud800\", \"data\": 1}",
        b"{\"type\": \"a\", \"data\": 1, \"type\": \"a\"}",
    ];
    for body in bodies {
        for (path, status) in [("/v1/events", 400), ("/api/events", 422)] {
            let answer = send(instance.post(path).bearer_auth(KEY).body(body)).await;
            let shown = String::from_utf8_lossy(body);
            assert_eq!(
                (answer.status.as_u16(), answer.text("error_code")),
                (status, "invalid_json".to_owned()),
                "{shown}: {answer:?}"
            );
            assert!(answer.text("detail").contains("line 1"), "{shown}: {answer:?}");
        }
    }
    assert_eq!(bench.log().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotency_keys_have_a_length_limit() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let long = "x".repeat(256);
    for key in ["", "  ", &long] {
        let answer = instance.accept_as(key, &json!({"type": "a", "data": 1})).await.expect(400);
        assert_eq!(answer.body["details"][0]["field"], "Idempotency-Key", "{key:?}");
    }
    let twice =
        instance.event(r#"{"type":"a","data":1}"#).header("idempotency-key", "a").header("idempotency-key", "b");
    send(twice).await.expect(400);
    assert_eq!(bench.log().await.len(), 0);
    // Blanks around the value are not part of the key.
    instance.accept_as("  k\t", &json!({"type": "a", "data": 1})).await.expect(201);
    assert_eq!(bench.log().await[0].event.dedup.as_ref().unwrap().key, "k");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_payloads_have_a_size_limit() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let of_payload = |bytes: usize| format!(r#"{{"type": "a", "data": "{}"}}"#, "x".repeat(bytes - 2));
    send(instance.event(of_payload(256 * 1024))).await.expect(201);
    send(instance.event(of_payload(256 * 1024 + 1))).await.expect(413);
    let of_body = |bytes: usize| {
        let event = r#"{"type": "a", "data": 1}"#;
        format!("{event}{}", " ".repeat(bytes - event.len()))
    };
    send(instance.event(of_body(512 * 1024))).await.expect(201);
    let answer = send(instance.event(of_body(512 * 1024 + 1))).await.expect(413);
    assert_eq!(answer.text("error_code"), "payload_too_large");
    assert_eq!(bench.log().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_json_is_accepted_and_no_content_type_means_json() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let post = || instance.post("/v1/events").bearer_auth(KEY).body(r#"{"type": "a", "data": 1}"#);
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "", "application/json5", "caf\u{e9}/json"] {
        let answer = send(post().header("content-type", content_type)).await.expect(415);
        assert_eq!(answer.text("error_code"), "unsupported_media_type", "{content_type}");
    }
    send(post().header("content-encoding", "br")).await.expect(415);
    send(post()).await.expect(201);
    send(post().header("content-type", "Application/JSON ; charset=utf-8")).await.expect(201);
    assert_eq!(bench.log().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producing_needs_a_key_with_the_right_for_the_type() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let body = |event_type: &str| json!({"type": event_type, "data": 1});
    let with = async |key: &str, event_type: &str| {
        send(instance.post("/v1/events").bearer_auth(key).json(&body(event_type))).await
    };

    let missing = send(instance.post("/v1/events").json(&body("a"))).await.expect(401);
    assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
    with("unknown", "a").await.expect(401);
    let consume = instance.key(json!({"role": "consume"})).await;
    assert_eq!(with(&consume, "a").await.expect(403).text("error_code"), "forbidden");
    let produce = instance.key(json!({"role": "produce"})).await;
    with(&produce, "a").await.expect(201);
    let restricted = instance.key(json!({"role": "produce", "event_types": ["a", "b"]})).await;
    with(&restricted, "b").await.expect(201);
    assert_eq!(with(&restricted, "ab").await.expect(403).text("error_code"), "forbidden");
    let mut types: Vec<String> = bench.log().await.into_iter().map(|record| record.event.event_type).collect();
    types.sort();
    assert_eq!(types, ["a", "b"]);
}
