//! Other forms of an event than our own JSON: compressed, and as a CloudEvent.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::bench::{Bench, KEY, send};

pub(crate) fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn size_limits_apply_to_the_decompressed_body() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let request = |body: Vec<u8>| instance.event("").header("content-encoding", "gzip").body(body);
    send(request(gzip(r#"{"type": "a", "data": {"b" : 1}}"#))).await.expect(201);
    send(request(gzip(&format!(r#"{{"type": "a", "data": "{}"}}"#, "x".repeat(600 * 1024))))).await.expect(413);
    send(request(b"not gzip".to_vec())).await.expect(400);
    let log = bench.log().await;
    assert_eq!(log.iter().map(|record| record.event.payload.as_str()).collect::<Vec<_>>(), [r#"{"b" : 1}"#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_cloudevent_has_its_attributes_in_headers() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let request = || {
        instance
            .event(r#"{"b" : 1}"#)
            .header("ce-specversion", "1.0")
            .header("ce-type", "order.created")
            .header("ce-source", "/shop")
            .header("ce-id", "7")
            .header("ce-partitionkey", "customer-9")
            .header("ce-subject", "caf%C3%A9")
    };
    let first = send(request()).await.expect(201);
    let duplicate = send(request()).await.expect(409);
    assert_eq!(duplicate.text("event_id"), first.text("event_id"), "source and id are the dedup key");
    let log = bench.log().await;
    let [record] = &log[..] else { panic!("{log:?}") };
    let event = &record.event;
    assert_eq!((event.event_type.as_str(), event.payload.as_str()), ("order.created", r#"{"b" : 1}"#));
    assert_eq!((event.source.as_deref(), event.ordering_key.as_deref()), (Some("/shop"), Some("customer-9")));
    assert_eq!(event.metadata.get("subject").map(String::as_str), Some("caf\u{e9}"));

    let foreign = http::HeaderValue::from_bytes(b"caf\xe9").unwrap();
    let refused = send(request().header("ce-extension", foreign)).await.expect(400);
    assert_eq!(refused.body["details"][0]["field"], "ce-extension", "no attribute is dropped silently");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_type_takes_precedence_over_cloudevents_headers() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let body =
        json!({"specversion": "1.0", "type": "a", "source": "/shop", "id": "7", "data": [1], "ext": "x"}).to_string();
    let request = |content_type: &str| {
        instance
            .post("/v1/events")
            .bearer_auth(KEY)
            .header("content-type", content_type)
            .header("ce-specversion", "1.0")
            .body(body.clone())
    };
    send(request("Application/CloudEvents+JSON; charset=utf-8")).await.expect(201);
    let event = &bench.log().await[0].event;
    assert_eq!((event.event_type.as_str(), event.payload.as_str()), ("a", "[1]"));
    assert_eq!(event.metadata.get("ext").map(String::as_str), Some("x"));
    let refused = send(request("application/cloudevents+xml")).await.expect(415);
    assert_eq!(refused.text("error_code"), "unsupported_media_type");
    assert_eq!(bench.log().await.len(), 1);
}
