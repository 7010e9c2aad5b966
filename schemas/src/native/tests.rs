//! Decoding of records of any producer.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::codec::{encode_ack, encode_attempt, encode_event};
use crate::dedup::sha256_hex;
use crate::records::{Ack, DedupKind, DeliveryAttempt, DeliveryOutcome, PayloadEncoding};

const ORG: &str = "0192f0c1-2345-7abc-8def-0123456789ab";
const OTHER: &str = "0192f0c1-2345-7abc-8def-0123456789ac";
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn headers(pairs: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
}

fn read(value: &[u8], pairs: &[(&str, &str)]) -> Result<Event, Unreadable> {
    read_event(&record_with(Some(ORG), Some(value), &headers(pairs)))
}

fn record_with<'a>(
    key: Option<&'a str>,
    value: Option<&'a [u8]>,
    headers: &'a [(String, Vec<u8>)],
) -> NativeRecord<'a> {
    NativeRecord {
        topic: "triggers.events.v1",
        partition: 3,
        offset: 42,
        timestamp_ms: 1_700_000_000_000,
        key: key.map(str::as_bytes),
        value,
        headers,
    }
}

fn class(result: Result<Event, Unreadable>) -> &'static str {
    result.unwrap_err().class
}

fn event() -> Event {
    Event {
        org_id: ORG.parse().unwrap(),
        event_id: OTHER.parse().unwrap(),
        event_type: "a".to_owned(),
        payload: "{}".to_owned(),
        payload_encoding: None,
        occurred_at: Some(0),
        source: Some("s".to_owned()),
        ordering_key: Some("o".to_owned()),
        metadata: BTreeMap::from([("k".to_owned(), String::new())]),
        dedup: Some(Dedup::idempotency_key("k", b"")),
        traceparent: Some(TRACE.to_owned()),
    }
}

#[test]
fn a_json_record_gets_its_organization_from_the_key() {
    let value = br#"{"type": "a", "data": {"x" : 1}, "dedup_id": "d"}"#;
    let read = read(value, &[("content-type", "application/json"), ("TraceParent", TRACE)]).unwrap();
    assert_eq!(read.org_id.to_string(), ORG);
    assert_eq!(read.event_id, EventId::derived_from_position("triggers.events.v1", 3, 42, 1_700_000_000_000));
    assert_eq!(read.payload, r#"{"x" : 1}"#);
    assert_eq!(read.traceparent.as_deref(), Some(TRACE));
    let dedup = read.dedup.unwrap();
    assert_eq!((dedup.kind, dedup.key.as_str(), dedup.window_seconds), (DedupKind::DedupId, "d", 86_400));
    assert_eq!(dedup.body_hash, sha256_hex(&[value]));
}

#[test]
fn headers_or_else_the_first_bytes_decide_the_encoding() {
    let avro = encode_event(&event()).unwrap();
    let json = br#"{"type": "a", "data": 1}"#;
    let cloud = br#" {"specversion": "1.0", "id": "1", "source": "s", "type": "a", "data": 1}"#;
    let binary = [("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_source", "s"), ("ce_type", "a")];
    for value in [&avro[..], json, cloud] {
        assert_eq!(read(value, &[]).unwrap().event_type, "a");
        assert_eq!(read(value, &[("content-type", "application/octet-stream")]).unwrap().event_type, "a");
        assert_eq!(read(value, &[("content-type", "")]).unwrap().event_type, "a");
    }
    assert_eq!(read(cloud, &[]).unwrap().dedup.unwrap().key, "s 1");
    assert_eq!(
        read(cloud, &[("Content-Type", "Application/CloudEvents+JSON; charset=utf-8")]).unwrap().dedup.unwrap().key,
        "s 1"
    );
    assert_eq!(read(cloud, &[("content-type", "application/json")]).unwrap().dedup, None);
    assert_eq!(class(read(json, &[("content-type", "application/cloudevents+json")])), "invalid_event");
    assert_eq!(class(read(json, &[("content-type", "application/avro")])), "bad_avro");
    assert_eq!(class(read(&avro, &[("content-type", "application/json")])), "malformed");
    let event = read(json, &[&binary[..], &[("content-type", "application/json")]].concat()).unwrap();
    assert_eq!((event.payload.as_str(), event.dedup.unwrap().key.as_str()), (r#"{"type": "a", "data": 1}"#, "s 1"));
    assert_eq!(
        read(&avro, &[&binary[..], &[("content-type", "application/avro")]].concat()).unwrap().payload.len(),
        avro.len().div_ceil(3) * 4 + 2
    );
}

#[test]
fn a_key_in_another_form_has_a_class_of_its_own() {
    let value = br#"{"type": "a", "data": 1}"#;
    let (upper, bare) = (ORG.to_uppercase(), ORG.replace('-', ""));
    for key in [upper, bare.clone(), bare.to_uppercase(), format!("{{{ORG}}}"), format!("urn:uuid:{ORG}")] {
        for result in [
            read_event(&record_with(Some(&key), Some(value), &[])).unwrap_err(),
            read_acks(Some(key.as_bytes()), Some(br#"{"event_id": "x"}"#), &[]).unwrap_err(),
            read_attempt(Some(key.as_bytes()), Some(b"")).unwrap_err(),
        ] {
            assert_eq!(result.class, "key_not_canonical", "{key}");
            assert!(result.message.ends_with(&format!("write {ORG}")), "{}", result.message);
        }
        assert_eq!(organization_named_by(Some(key.as_bytes())).unwrap().to_string(), ORG);
    }
    for key in ["", "shop", &ORG[1..], "\u{e4}"] {
        assert_eq!(read_event(&record_with(Some(key), Some(value), &[])).unwrap_err().class, "bad_key", "{key}");
    }
}

#[test]
fn a_record_without_a_value_has_a_class_of_its_own() {
    assert_eq!(class(read_event(&record_with(Some(ORG), None, &[]))), "null_value");
    assert_eq!(class(read_event(&record_with(Some(ORG), Some(b""), &[]))), "malformed");
    assert_eq!(read_acks(Some(ORG.as_bytes()), None, &[]).unwrap_err().class, "null_value");
    assert_eq!(read_attempt(Some(ORG.as_bytes()), None).unwrap_err().class, "null_value");
    let structured = headers(&[("content-type", "application/cloudevents+json"), ("ce_specversion", "1.0")]);
    assert_eq!(class(read_event(&record_with(Some(ORG), None, &structured))), "null_value");
}

#[test]
fn a_binary_cloudevent_without_a_value_has_the_payload_null() {
    for content_type in [None, Some("application/json"), Some("image/png")] {
        let mut pairs = vec![("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_source", "s"), ("ce_type", "a")];
        pairs.extend(content_type.map(|name| ("content-type", name)));
        let headers = headers(&pairs);
        let event = read_event(&record_with(Some(ORG), None, &headers)).unwrap();
        assert_eq!((event.payload.as_str(), event.payload_encoding), ("null", None), "{content_type:?}");
        assert_eq!(event.dedup.unwrap().key, "s 1");
    }
}

#[test]
fn an_avro_record_within_all_limits_is_decoded() {
    let whole = event();
    assert_eq!(read(&encode_event(&whole).unwrap(), &[]).unwrap(), whole);
    let base64 = Event { payload: "\"AAE=\"".to_owned(), payload_encoding: Some(PayloadEncoding::Base64), ..event() };
    assert_eq!(read(&encode_event(&base64).unwrap(), &[]).unwrap(), base64);
    let untraced = Event { traceparent: Some("none\0".to_owned()), ..event() };
    assert_eq!(read(&encode_event(&untraced).unwrap(), &[]).unwrap().traceparent, None);
}

#[test]
fn an_avro_record_that_breaks_a_limit_is_refused() {
    let nul = || Some("\0".to_owned());
    let dedup = || Dedup::dedup_id("d", b"");
    let broken = [
        ("invalid_event", Event { event_type: String::new(), ..event() }),
        ("invalid_event", Event { event_type: "a\0".to_owned(), ..event() }),
        ("invalid_event", Event { event_type: "x".repeat(256), ..event() }),
        ("invalid_event", Event { event_type: "triggers.endpoint.disabled".to_owned(), ..event() }),
        ("invalid_event", Event { payload_encoding: Some(PayloadEncoding::Base64), ..event() }),
        ("invalid_event", Event { payload: String::new(), ..event() }),
        ("invalid_event", Event { payload: "{".to_owned(), ..event() }),
        ("invalid_event", Event { payload: "\"\0\"".to_owned(), ..event() }),
        ("invalid_event", Event { payload: r#""\ud800""#.to_owned(), ..event() }),
        ("invalid_event", Event { payload: "[".repeat(65) + &"]".repeat(65), ..event() }),
        ("payload_too_large", Event { payload: format!("\"{}\"", "x".repeat(256 * 1024)), ..event() }),
        ("value_too_large", Event { payload: format!("\"{}\"", "x".repeat(512 * 1024)), ..event() }),
        ("invalid_event", Event { occurred_at: Some(i64::MAX), ..event() }),
        ("invalid_event", Event { occurred_at: Some(i64::MIN), ..event() }),
        ("invalid_event", Event { source: nul(), ..event() }),
        ("invalid_event", Event { ordering_key: nul(), ..event() }),
        ("invalid_event", Event { ordering_key: Some(String::new()), ..event() }),
        ("invalid_event", Event { metadata: BTreeMap::from([("k".to_owned(), "\0".to_owned())]), ..event() }),
        ("invalid_event", Event { metadata: (0..33).map(|i| (i.to_string(), String::new())).collect(), ..event() }),
        ("invalid_event", Event { dedup: Some(Dedup { key: "\0".to_owned(), ..dedup() }), ..event() }),
        ("invalid_event", Event { dedup: Some(Dedup { window_seconds: i64::MAX, ..dedup() }), ..event() }),
        ("invalid_event", Event { dedup: Some(Dedup { window_seconds: 0, ..dedup() }), ..event() }),
        ("invalid_event", Event { dedup: Some(Dedup { body_hash: "\0".repeat(64), ..dedup() }), ..event() }),
        ("organization_mismatch", Event { org_id: OTHER.parse().unwrap(), ..event() }),
    ];
    for (expected, event) in broken {
        assert_eq!(class(read(&encode_event(&event).unwrap(), &[])), expected, "{:.200}", format!("{event:?}"));
    }
}

#[test]
fn a_record_without_value_or_organization_is_refused() {
    let json = br#"{"type": "a", "data": 1}"#;
    let record = NativeRecord {
        topic: "t",
        partition: 0,
        offset: 0,
        timestamp_ms: 0,
        key: Some(ORG.as_bytes()),
        value: Some(json),
        headers: &[],
    };
    assert_eq!(class(read_event(&NativeRecord { value: None, ..record })), "null_value");
    for key in [None, Some(&b""[..]), Some(b"shop"), Some(&[0xFF; 36])] {
        assert_eq!(class(read_event(&NativeRecord { key, ..record })), "bad_key");
    }
    assert_eq!(class(read(b"", &[])), "malformed");
    assert_eq!(class(read(br#"{"type": "a", "data": 1, "timestamp": "?"}"#, &[])), "invalid_event");
    assert_eq!(class(read(br#"{"type": "triggers.x", "data": 1}"#, &[])), "invalid_event");
    assert_eq!(
        class(read(&encode_ack(&Ack { org_id: ORG.parse().unwrap(), event_id: OTHER.parse().unwrap() }).unwrap(), &[])),
        "unknown_schema"
    );
    let long = format!(
        r#"{{"type": "a", "data": 1, "metadata": {{{}}}}}"#,
        (0..32).map(|i| format!(r#""{i}{}": 1"#, "k".repeat(200))).collect::<Vec<_>>().join(",")
    );
    assert!(read(long.as_bytes(), &[]).unwrap_err().message.len() <= 1024);
}

const ORIGIN: [(&str, &str); 4] = [
    ("triggers-origin-topic", "triggers.events.v1"),
    ("triggers-origin-partition", "5"),
    ("triggers-origin-offset", "7"),
    ("triggers-origin-timestamp", "1600000000000"),
];

#[test]
fn a_redriven_record_has_the_id_of_its_original_position() {
    let json = br#"{"type": "a", "data": 1}"#;
    let redriven = read(json, &ORIGIN).unwrap();
    assert_eq!(redriven.event_id, EventId::derived_from_position("triggers.events.v1", 5, 7, 1_600_000_000_000));
    // This must never change: these ids are in inboxes and at webhook receivers.
    assert_eq!(redriven.event_id.to_string(), "0ba6bb14-c039-53a4-bcfe-27c66e195960");
    assert_ne!(redriven.event_id, read(json, &[]).unwrap().event_id);
    let avro = read(&encode_event(&event()).unwrap(), &ORIGIN).unwrap();
    assert_eq!(avro.event_id, event().event_id, "an id that the producer chose is kept");
    assert_eq!(class(read(json, &ORIGIN[..3])), "bad_origin");
    assert_eq!(class(read(&encode_event(&event()).unwrap(), &[ORIGIN[0]])), "bad_origin");
}

#[test]
fn only_chosen_ids_and_redriven_records_may_repeat_an_id() {
    let may_repeat = |value: &[u8], pairs: &[(&str, &str)]| {
        let headers = headers(pairs);
        let record = NativeRecord {
            topic: "t",
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: Some(value),
            headers: &headers,
        };
        record.may_repeat_an_id()
    };
    let (avro, json) = (encode_event(&event()).unwrap(), br#"{"type": "a", "data": 1}"#);
    assert!(may_repeat(&avro, &[]) && may_repeat(&avro, &[("content-type", "application/avro")]));
    assert!(!may_repeat(&avro, &[("triggers-key-id", OTHER)]));
    assert!(!may_repeat(json, &[]) && !may_repeat(json, &[("triggers-key-id", OTHER)]));
    assert!(
        !may_repeat(&avro, &[("ce_specversion", "1.0")]),
        "the value is the data of a CloudEvent, although it starts with the Avro marker"
    );
    assert!(may_repeat(json, &ORIGIN) && may_repeat(&avro, &[ORIGIN[0], ("triggers-key-id", OTHER)]));
}

#[test]
fn only_a_well_formed_traceparent_is_kept() {
    let value = br#"{"type": "a", "data": 1}"#;
    let later = format!("01{}-more", &TRACE[2..]);
    for good in [TRACE, &later] {
        assert_eq!(read(value, &[("traceparent", good)]).unwrap().traceparent.as_deref(), Some(good));
    }
    // As over HTTP, because webhooks forward it.
    let all_zero = format!("00-{}-{}-01", "0".repeat(32), "0".repeat(16));
    for bad in ["", "x", &all_zero, &format!("ff{}", &TRACE[2..]), &format!("{TRACE}-more"), &format!("{TRACE}-\0")] {
        assert_eq!(read(value, &[("traceparent", bad)]).unwrap().traceparent, None, "{bad}");
    }
}

#[test]
fn acks_are_read_from_avro_and_json() {
    let key = Some(ORG.as_bytes());
    let ack = Ack { org_id: ORG.parse().unwrap(), event_id: OTHER.parse().unwrap() };
    assert_eq!(read_acks(key, Some(&encode_ack(&ack).unwrap()), &[]).unwrap(), vec![ack.clone()]);
    let one = format!(r#"{{"event_id": "{OTHER}", "event_ids": null, "x": 1}}"#);
    assert_eq!(
        read_acks(key, Some(one.as_bytes()), &headers(&[("content-type", "application/json")])).unwrap(),
        vec![ack.clone()]
    );
    let many = |count: usize| format!(r#"{{"event_ids": [{}]}}"#, vec![format!("\"{OTHER}\""); count].join(","));
    assert_eq!(read_acks(key, Some(many(1000).as_bytes()), &[]).unwrap(), vec![ack.clone(); 1000]);

    let class = |value: &[u8]| read_acks(key, Some(value), &[]).unwrap_err().class;
    let both = format!(r#"{{"event_id": "{OTHER}", "event_ids": ["{OTHER}"]}}"#);
    for bad in [
        "{}",
        r#"{"event_ids": []}"#,
        r#"{"event_ids": [1]}"#,
        r#"{"event_id": "x"}"#,
        r#"{"event_ids": "x"}"#,
        &both,
        &many(1001),
    ] {
        assert_eq!(class(bad.as_bytes()), "invalid_ack", "{bad:.80}");
    }
    assert_eq!(class(b"["), "malformed");
    assert_eq!(class(&encode_event(&event()).unwrap()), "unknown_schema");
    assert_eq!(class(&encode_ack(&Ack { org_id: OTHER.parse().unwrap(), ..ack }).unwrap()), "organization_mismatch");
    assert_eq!(read_acks(key, None, &[]).unwrap_err().class, "null_value");
    assert_eq!(read_acks(None, Some(one.as_bytes()), &[]).unwrap_err().class, "bad_key");
}

fn attempt() -> DeliveryAttempt {
    DeliveryAttempt {
        org_id: ORG.parse().unwrap(),
        event_id: OTHER.parse().unwrap(),
        endpoint_id: OTHER.parse().unwrap(),
        delivery_id: OTHER.parse().unwrap(),
        event_type: "a".to_owned(),
        attempt: 0,
        outcome: DeliveryOutcome::Cancelled,
        started_at: 0,
        latency_ms: 0,
        status_code: None,
        error: None,
        response_excerpt: None,
        next_attempt_at: None,
        connect_us: None,
        send_us: None,
        wait_us: None,
        remote_address: None,
        endpoints_matched: None,
        round: 0,
        batch_id: None,
    }
}

#[test]
fn an_attempt_is_read_when_it_can_be_stored() {
    let read = |attempt: &DeliveryAttempt| read_attempt(Some(ORG.as_bytes()), Some(&encode_attempt(attempt).unwrap()));
    assert_eq!(read(&attempt()).unwrap(), attempt());
    for bad in [
        DeliveryAttempt { event_type: "\0".to_owned(), ..attempt() },
        DeliveryAttempt { attempt: -1, ..attempt() },
        DeliveryAttempt { latency_ms: -1, ..attempt() },
        DeliveryAttempt { started_at: i64::MAX, ..attempt() },
        DeliveryAttempt { next_attempt_at: Some(i64::MIN), ..attempt() },
        DeliveryAttempt { connect_us: Some(-1), ..attempt() },
        DeliveryAttempt { send_us: Some(-1), ..attempt() },
        DeliveryAttempt { wait_us: Some(i64::MIN), ..attempt() },
        DeliveryAttempt { endpoints_matched: Some(-1), ..attempt() },
        DeliveryAttempt { round: -1, ..attempt() },
    ] {
        assert_eq!(read(&bad).unwrap_err().class, "invalid_attempt");
    }
    assert_eq!(
        read(&DeliveryAttempt { org_id: OTHER.parse().unwrap(), ..attempt() }).unwrap_err().class,
        "organization_mismatch"
    );
    assert_eq!(read_attempt(Some(ORG.as_bytes()), Some(b"{}")).unwrap_err().class, "bad_avro");
    let answered =
        DeliveryAttempt { error: Some("a\0b".to_owned()), response_excerpt: Some("\u{e4}".repeat(3000)), ..attempt() };
    let stored = read(&answered).unwrap();
    assert_eq!(stored.error.as_deref(), Some("a\u{fffd}b"));
    assert_eq!(stored.response_excerpt.unwrap().len(), 4096);
    for (sent, kept) in [("192.0.2.7", Some("192.0.2.7")), ("2001:db8::1", Some("2001:db8::1")), ("a\0", None)] {
        let stored = read(&DeliveryAttempt { remote_address: Some(sent.to_owned()), ..attempt() }).unwrap();
        assert_eq!(stored.remote_address.as_deref(), kept, "{sent:?}");
    }
}

/// A pattern of header names that the decoders read.
const HEADER_NAMES: &str = "content-type|ce_specversion|ce_id|ce_\\PC{0,3}|traceparent|triggers-origin-(topic|offset)";

proptest! {
    #[test]
    fn no_record_makes_a_reader_panic(
        value in prop::collection::vec(any::<u8>(), 0..200),
        key in prop::collection::vec(any::<u8>(), 0..40),
        names in prop::collection::vec(HEADER_NAMES, 0..5),
    ) {
        let headers: Vec<_> = names.into_iter().map(|name| (name, value.clone())).collect();
        for key in [key.as_slice(), ORG.as_bytes()] {
            let (key, value) = (Some(key), Some(value.as_slice()));
            let record =
                NativeRecord { topic: "t", partition: 0, offset: 0, timestamp_ms: 0, key, value, headers: &headers };
            drop(read_event(&record));
            drop(read_acks(key, value, &headers));
            drop(read_attempt(key, value));
        }
    }

    #[test]
    fn a_damaged_avro_event_is_within_the_limits_or_refused(
        byte in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let mut value = encode_event(&event()).unwrap();
        let at = byte.index(value.len());
        value[at] = to;
        if let Ok(event) = read(&value, &[]) {
            prop_assert_eq!(check_event(&event, false), Ok(()));
        }
    }
}
