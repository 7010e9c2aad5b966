//! Valid records of every encoding, for mutation.

use std::collections::BTreeMap;

use fuzz::Samples;
use schemas::codec;
use schemas::records::{Ack, Dedup, DeliveryAttempt, DeliveryOutcome, Event};

pub(crate) const ORG: &str = "0192f0c1-2345-7abc-8def-0123456789ab";
pub(crate) const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ac";
pub(crate) const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// A little more than any decoder accepts.
pub(crate) const LARGE: usize = 530_000;

pub(crate) fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(crate) const fn json(golden: &[Vec<u8>]) -> Samples<'_> {
    Samples { golden, tokens: fuzz::JSON, header: 1, large: LARGE }
}

pub(crate) const fn short(golden: &[Vec<u8>]) -> Samples<'_> {
    Samples { golden, tokens: fuzz::ANY_TEXT, header: 4, large: LARGE }
}

pub(crate) const fn avro(golden: &[Vec<u8>]) -> Samples<'_> {
    // Marker and fingerprint.
    Samples { golden, tokens: fuzz::JSON, header: 10, large: LARGE }
}

pub(crate) fn events() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"event_type": "order.created", "payload": {"id": 7, "n": [1.50, null, "\u00e9\ud83d\ude00"]},
            "dedup_id": "ord-7", "timestamp": "2026-11-21T09:00:00.123456Z", "source": "shop",
            "ordering_key": "customer-9", "metadata": {"k": "v", "l": ""}}"#,
        r#"{"type":"a","data":1}"#,
        r#"{"type":"a","event_type":"a","data":[[[["deep"]]]],"payload":[[[["deep"]]]],"unknown":{"type":"b"}}"#,
        r#"{"type": "a", "data": null, "timestamp": "2026-11-21 10:00:00+01:00", "dedup_id": null}"#,
    ])
}

pub(crate) fn structured() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created", "time": "2026-11-21T09:00:00Z",
            "datacontenttype": "application/json", "partitionkey": "p", "ext": 7, "flag": true,
            "data": {"a": [1, 2]}}"#,
        r#"{"specversion":"1.0","id":"1","source":"s","type":"a","data_base64":"AAEC/w==","subject":"x"}"#,
        r#"{"specversion":"1.0","id":"1","source":"s","type":"a"}"#,
    ])
}

/// Header lines, an empty line, the data.
pub(crate) fn binary() -> Vec<Vec<u8>> {
    texts(&[
        "specversion: 1.0\nid: 1\nsource: /shop\ntype: a\ntime: 2026-11-21T09:00:00Z\n\
         content-type: application/json\n\n{\"a\": 1}",
        "specversion: 1.0\nid: 1\nsource: s\ntype: a\npartitionkey: p\nx: %c3%a9\n\
         content-type: text/plain; charset=utf-8\n\nhello",
        "specversion: 1.0\nid: 1\nsource: s\ntype: a\ncontent-type: image/png\n\n\u{0}\u{1}\u{2}",
        "specversion: 1.0\nid: 1\nsource: s\ntype: a\n\n",
    ])
}

pub(crate) fn avro_events() -> Vec<Vec<u8>> {
    let bare = Event {
        org_id: ORG.parse().unwrap(),
        event_id: ID.parse().unwrap(),
        event_type: "a".to_owned(),
        payload: "null".to_owned(),
        payload_encoding: None,
        occurred_at: None,
        source: None,
        ordering_key: None,
        metadata: BTreeMap::new(),
        dedup: None,
        traceparent: None,
    };
    let full = Event {
        event_type: "order.created".to_owned(),
        payload: "{\"id\": 7, \"name\": \"Zo\u{eb}\"}".to_owned(),
        occurred_at: Some(1_795_251_600_123_456),
        source: Some("shop".to_owned()),
        ordering_key: Some("customer-9".to_owned()),
        metadata: BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]),
        dedup: Some(Dedup { dedup_id: Some("d".to_owned()), ..Dedup::idempotency_key("k", b"body") }),
        traceparent: Some(TRACE.to_owned()),
        ..bare.clone()
    };
    [bare, full].iter().map(|event| codec::encode_event(event).unwrap()).collect()
}

pub(crate) fn avro_acks() -> Vec<Vec<u8>> {
    vec![codec::encode_ack(&Ack { org_id: ORG.parse().unwrap(), event_id: ID.parse().unwrap() }).unwrap()]
}

pub(crate) fn json_acks() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"event_id": "0192f0c1-2345-7abc-8def-0123456789ac"}"#,
        r#"{"event_ids": ["0192f0c1-2345-7abc-8def-0123456789ac", "0192f0c1-2345-7abc-8def-0123456789ad"], "note": 1}"#,
    ])
}

pub(crate) fn avro_attempts() -> Vec<Vec<u8>> {
    let attempt = DeliveryAttempt {
        org_id: ORG.parse().unwrap(),
        event_id: ID.parse().unwrap(),
        endpoint_id: "0192f0c1-2345-7abc-8def-0123456789ad".parse().unwrap(),
        delivery_id: "0192f0c1-2345-7abc-8def-0123456789ae".parse().unwrap(),
        event_type: "order.created".to_owned(),
        attempt: 2,
        outcome: DeliveryOutcome::Retrying,
        started_at: 1_795_251_600_123_456,
        latency_ms: 31,
        status_code: Some(503),
        error: Some("no answer".to_owned()),
        response_excerpt: Some("busy".to_owned()),
        next_attempt_at: Some(1_795_251_630_000_000),
        connect_us: Some(1_250),
        send_us: Some(90),
        wait_us: Some(29_700),
        remote_address: Some("192.0.2.7".to_owned()),
        endpoints_matched: Some(3),
        round: 1,
        batch_id: Some("0192f0c1-2345-5abc-8def-0123456789af".parse().unwrap()),
    };
    let done = DeliveryAttempt {
        outcome: DeliveryOutcome::Delivered,
        status_code: None,
        error: None,
        response_excerpt: None,
        next_attempt_at: None,
        connect_us: None,
        remote_address: None,
        endpoints_matched: None,
        batch_id: None,
        ..attempt.clone()
    };
    [attempt, done].iter().map(|attempt| codec::encode_attempt(attempt).unwrap()).collect()
}
