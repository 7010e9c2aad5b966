//! Golden bytes decode and encode unchanged, schema versions read each other, and invalid bytes are errors.

use std::collections::BTreeMap;

use apache_avro::schema_compatibility::SchemaCompatibility;
use proptest::prelude::*;

use super::*;
use crate::records::{Dedup, DedupKind, DeliveryOutcome, PayloadEncoding};

const EVENT_V1: &[u8] = include_bytes!("../../avro/golden/event.v1.bin");
const EVENT_BARE_V1: &[u8] = include_bytes!("../../avro/golden/event-bare.v1.bin");
const EVENT_V2: &[u8] = include_bytes!("../../avro/golden/event.v2.bin");
const EVENT_BARE_V2: &[u8] = include_bytes!("../../avro/golden/event-bare.v2.bin");
const EVENT_V3: &[u8] = include_bytes!("../../avro/golden/event.v3.bin");
const EVENT_BARE_V3: &[u8] = include_bytes!("../../avro/golden/event-bare.v3.bin");
const ACK_V1: &[u8] = include_bytes!("../../avro/golden/ack.v1.bin");
const ATTEMPT_V1: &[u8] = include_bytes!("../../avro/golden/delivery_attempt.v1.bin");
const ATTEMPT_V2: &[u8] = include_bytes!("../../avro/golden/delivery_attempt.v2.bin");
const ATTEMPT_BARE_V2: &[u8] = include_bytes!("../../avro/golden/delivery_attempt-bare.v2.bin");
const ATTEMPT_V3: &[u8] = include_bytes!("../../avro/golden/delivery_attempt.v3.bin");
const ATTEMPT_BARE_V3: &[u8] = include_bytes!("../../avro/golden/delivery_attempt-bare.v3.bin");
const ATTEMPT_V4: &[u8] = include_bytes!("../../avro/golden/delivery_attempt.v4.bin");
const ATTEMPT_BARE_V4: &[u8] = include_bytes!("../../avro/golden/delivery_attempt-bare.v4.bin");

const ORG: &str = "0192f0c1-2345-7abc-8def-0123456789ab";
const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ac";

fn full_event() -> Event {
    Event {
        org_id: ORG.parse().unwrap(),
        event_id: ID.parse().unwrap(),
        event_type: "order.created".to_owned(),
        payload: "{\"id\": 7, \"name\": \"Zo\u{eb}\"}".to_owned(),
        payload_encoding: Some(PayloadEncoding::Base64),
        occurred_at: Some(1_795_251_600_123_456),
        source: Some("shop".to_owned()),
        ordering_key: Some("customer-9".to_owned()),
        metadata: BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]),
        dedup: Some(Dedup {
            kind: DedupKind::Content,
            key: "k".to_owned(),
            window_seconds: 300,
            body_hash: "h".to_owned(),
            dedup_id: Some("d".to_owned()),
        }),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}

/// The event with the fields of version 2.
fn full_event_v2() -> Event {
    Event { payload_encoding: None, ..full_event() }
}

/// The event with the fields of version 1.
fn full_event_v1() -> Event {
    let event = full_event_v2();
    Event { dedup: event.dedup.map(|dedup| Dedup { dedup_id: None, ..dedup }), ..event }
}

fn bare_event() -> Event {
    Event {
        payload: "null".to_owned(),
        payload_encoding: None,
        occurred_at: None,
        source: None,
        ordering_key: None,
        metadata: BTreeMap::new(),
        dedup: None,
        traceparent: None,
        ..full_event()
    }
}

fn ack() -> Ack {
    Ack { org_id: ORG.parse().unwrap(), event_id: ID.parse().unwrap() }
}

fn attempt() -> DeliveryAttempt {
    DeliveryAttempt {
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
        error: None,
        response_excerpt: Some("busy".to_owned()),
        next_attempt_at: Some(1_795_251_630_000_000),
        connect_us: Some(1_250),
        send_us: Some(90),
        wait_us: Some(29_700),
        remote_address: Some("2606:4700::6810:84e5".to_owned()),
        endpoints_matched: Some(3),
        round: 1,
        batch_id: Some("0192f0c1-2345-5abc-8def-0123456789af".parse().unwrap()),
    }
}

/// The attempt with the fields of version 3.
fn attempt_v3() -> DeliveryAttempt {
    DeliveryAttempt { batch_id: None, ..attempt() }
}

/// The attempt with the fields of version 2.
fn attempt_v2() -> DeliveryAttempt {
    DeliveryAttempt { round: 0, ..attempt_v3() }
}

/// The attempt with the fields of version 1.
fn attempt_v1() -> DeliveryAttempt {
    let (connect_us, send_us, wait_us) = (None, None, None);
    DeliveryAttempt { connect_us, send_us, wait_us, remote_address: None, endpoints_matched: None, ..attempt_v2() }
}

#[test]
fn golden_bytes_decode_to_the_same_values() {
    assert_eq!(decode_event(EVENT_V1).unwrap(), full_event_v1());
    assert_eq!(decode_event(EVENT_BARE_V1).unwrap(), bare_event());
    assert_eq!(decode_event(EVENT_V2).unwrap(), full_event_v2());
    assert_eq!(decode_event(EVENT_BARE_V2).unwrap(), bare_event());
    assert_eq!(decode_event(EVENT_V3).unwrap(), full_event());
    assert_eq!(decode_event(EVENT_BARE_V3).unwrap(), bare_event());
    assert_eq!(decode_ack(ACK_V1).unwrap(), ack());
    assert_eq!(decode_attempt(ATTEMPT_V1).unwrap(), attempt_v1());
    assert_eq!(decode_attempt(ATTEMPT_V2).unwrap(), attempt_v2());
    assert_eq!(decode_attempt(ATTEMPT_BARE_V2).unwrap(), attempt_v1());
    assert_eq!(decode_attempt(ATTEMPT_V3).unwrap(), attempt_v3());
    assert_eq!(decode_attempt(ATTEMPT_BARE_V3).unwrap(), attempt_v1());
    assert_eq!(decode_attempt(ATTEMPT_V4).unwrap(), attempt());
    assert_eq!(decode_attempt(ATTEMPT_BARE_V4).unwrap(), attempt_v1());
}

/// For the newest version only: a new version gets its own golden bytes, and this test moves to them.
#[test]
fn the_encoder_gives_the_golden_bytes() {
    assert_eq!(encode_event(&full_event()).unwrap(), EVENT_V3);
    assert_eq!(encode_event(&bare_event()).unwrap(), EVENT_BARE_V3);
    assert_eq!(encode_ack(&ack()).unwrap(), ACK_V1);
    assert_eq!(encode_attempt(&attempt()).unwrap(), ATTEMPT_V4);
    assert_eq!(encode_attempt(&attempt_v1()).unwrap(), ATTEMPT_BARE_V4);
}

/// The expected values are from another implementation of the specification, as producers in other languages use it.
#[test]
fn both_the_right_and_the_librarys_fingerprints_are_read() {
    assert_eq!(EVENT_V1[2..10], [0xeb, 0x0b, 0x19, 0xa0, 0x05, 0x46, 0x80, 0x25]);
    assert_eq!(EVENT_V2[2..10], [0xd6, 0x6b, 0xe8, 0xef, 0x53, 0x6b, 0xd7, 0xc9]);
    assert_eq!(EVENT_V3[2..10], [0x3e, 0xc1, 0x01, 0xc0, 0x22, 0xf1, 0x55, 0xad]);
    assert_eq!(ACK_V1[2..10], [0xc0, 0xc2, 0xb5, 0x96, 0xad, 0xaf, 0x68, 0xfa]);
    assert_eq!(ATTEMPT_V1[2..10], [0x75, 0x98, 0x4f, 0x09, 0x9d, 0x78, 0x88, 0x63]);
    assert_eq!(ATTEMPT_V2[2..10], [0xab, 0xd9, 0x14, 0xf8, 0x14, 0xcb, 0x09, 0x74]);
    assert_eq!(ATTEMPT_V3[2..10], [0x6b, 0x87, 0x6a, 0x5d, 0x11, 0x21, 0xb5, 0x06]);
    assert_eq!(ATTEMPT_V4[2..10], [0xe4, 0xae, 0xfc, 0x0d, 0x09, 0x3b, 0x7e, 0xe5]);
    let [v1, v2] = EVENT_VERSIONS.older else { panic!("two older versions") };
    for (text, golden) in [(v1, EVENT_V1), (v2, EVENT_V2), (&EVENT_VERSIONS.newest, EVENT_V3)] {
        let library = fingerprint(&Schema::parse_str(text).unwrap());
        assert_ne!(library, golden[2..10]);
        let value = [&MARKER, &library[..], &golden[10..]].concat();
        assert_eq!(decode_event(&value).unwrap(), decode_event(golden).unwrap());
    }
    let [v1, v2, v3] = ATTEMPT_VERSIONS.older else { panic!("three older versions") };
    let newest = &ATTEMPT_VERSIONS.newest;
    for (text, golden) in [(v1, ATTEMPT_V1), (v2, ATTEMPT_V2), (v3, ATTEMPT_V3), (newest, ATTEMPT_V4)] {
        let library = fingerprint(&Schema::parse_str(text).unwrap());
        assert_ne!(library, golden[2..10]);
        let value = [&MARKER, &library[..], &golden[10..]].concat();
        assert_eq!(decode_attempt(&value).unwrap(), decode_attempt(golden).unwrap());
    }
}

#[test]
fn every_version_of_a_record_reads_every_other() {
    for versions in [EVENT_VERSIONS, ACK_VERSIONS, ATTEMPT_VERSIONS] {
        let schemas: Vec<Schema> =
            versions.older.iter().chain([&versions.newest]).map(|text| Schema::parse_str(text).unwrap()).collect();
        for one in &schemas {
            for other in &schemas {
                SchemaCompatibility::mutual_read(one, other).unwrap();
            }
        }
    }
}

/// Shows that the test above fails for an incompatible change.
#[test]
fn only_a_new_field_with_a_default_is_compatible() {
    let today = Schema::parse_str(ACK_VERSIONS.newest).unwrap();
    let with =
        |field: &str| Schema::parse_str(&ACK_VERSIONS.newest.replace("\n  ]", &format!(", {field}\n  ]"))).unwrap();
    assert!(SchemaCompatibility::mutual_read(&with(r#"{"name": "by", "type": "string"}"#), &today).is_err());
    assert!(
        SchemaCompatibility::mutual_read(&with(r#"{"name": "by", "type": "string", "default": ""}"#), &today).is_ok()
    );
}

#[test]
fn older_and_newer_versions_are_read() {
    // An older schema without the fields that have defaults, and a newer one with additional fields.
    let older = r#"{"type": "record", "name": "Event", "namespace": "triggers.v1", "fields": [
        {"name": "org_id", "type": "string"}, {"name": "event_id", "type": "string"},
        {"name": "event_type", "type": "string"}, {"name": "payload", "type": "string"}]}"#;
    let newer = EVENT_VERSIONS.newest.replace(
        r#"{"name": "traceparent""#,
        r#"{"name": "tags", "type": {"type": "map", "values": ["null", "long"]}, "default": {}},
           {"name": "traceparent""#,
    );
    let codec = Codec::open(&Versions { older: &[older, EVENT_VERSIONS.newest], newest: &newer }).unwrap();

    #[derive(Serialize)]
    struct Older {
        org_id: &'static str,
        event_id: &'static str,
        event_type: &'static str,
        payload: &'static str,
    }
    let schema = Schema::parse_str(older).unwrap();
    let mut value = MARKER.to_vec();
    value.extend(fingerprint(&schema));
    let old = Older { org_id: ORG, event_id: ID, event_type: "order.created", payload: "null" };
    value.extend(GenericDatumWriter::builder(&schema).build().unwrap().write_ser_to_vec(&old).unwrap());
    assert_eq!(codec.decode::<Event>(&value).unwrap(), bare_event());

    let old_bytes = encode_event(&full_event()).unwrap();
    assert_eq!(codec.decode::<Event>(&old_bytes).unwrap(), full_event());

    #[derive(Serialize)]
    struct Newer {
        #[serde(flatten)]
        event: Event,
        tags: BTreeMap<String, Option<i64>>,
    }
    let tags = BTreeMap::from([("x".to_owned(), Some(1)), ("y".to_owned(), None)]);
    let new_bytes = codec.encode(&Newer { event: bare_event(), tags }, 0).unwrap();
    assert_eq!(codec.decode::<Event>(&new_bytes).unwrap(), bare_event());
    assert!(matches!(decode_event(&new_bytes), Err(DecodeError::UnknownSchema { .. })));
}

#[test]
fn other_records_and_trailing_bytes_are_different_errors() {
    assert!(matches!(decode_event(ACK_V1), Err(DecodeError::UnknownSchema { .. })));
    assert!(matches!(decode_event(b"{}"), Err(DecodeError::NoMarker)));
    assert!(matches!(decode_event(&EVENT_V1[..9]), Err(DecodeError::NoMarker)));
    let longer = [ACK_V1, &[0]].concat();
    assert!(matches!(decode_ack(&longer), Err(DecodeError::Trailing { bytes: 1 })));
}

#[test]
fn a_huge_length_prefix_is_an_error_without_allocation() {
    // The first field is a string; its length is a zigzag varint: 2^62, the largest positive, and -1.
    for length in
        [&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01][..], &[0xFE, 0xFF, 0xFF, 0xFF, 0x0F], &[0x01]]
    {
        let value = [&ACK_V1[..10], length].concat();
        assert!(matches!(decode_ack(&value), Err(DecodeError::Malformed(_))), "{length:x?}");
    }
    // The codec sets the limit at first use; this call returns the limit of the process.
    assert_eq!(apache_avro::util::max_allocation_bytes(usize::MAX), MAX_ALLOCATION_BYTES);
}

proptest! {
    #[test]
    fn random_datums_never_panic(datum in prop::collection::vec(any::<u8>(), 0..300)) {
        for golden in [EVENT_V1, ACK_V1, ATTEMPT_V1, ATTEMPT_V2, ATTEMPT_V3, ATTEMPT_V4] {
            let value = [&golden[..10], &datum].concat();
            drop((decode_event(&value), decode_ack(&value), decode_attempt(&value)));
        }
        drop((decode_event(&datum), decode_ack(&datum), decode_attempt(&datum)));
    }

    #[test]
    fn a_truncated_record_is_an_error(cut in 0..ATTEMPT_V1.len()) {
        prop_assert!(decode_attempt(&ATTEMPT_V1[..cut]).is_err());
        prop_assert!(decode_attempt(&ATTEMPT_V2[..cut]).is_err());
        prop_assert!(decode_event(&EVENT_V1[..cut.min(EVENT_V1.len() - 1)]).is_err());
    }

    #[test]
    fn a_flipped_bit_never_panics(byte in 0..EVENT_V1.len(), bit in 0..8) {
        let mut value = EVENT_V1.to_vec();
        value[byte] ^= 1_u8 << bit;
        drop(decode_event(&value));
    }

    #[test]
    fn any_event_survives_encoding(
        payload in ".*",
        event_type in ".*",
        occurred_at in any::<Option<i64>>(),
        metadata in prop::collection::btree_map(".*", ".*", 0..5),
        key in prop::option::of(".*"),
    ) {
        let dedup = key.map(|key| Dedup::dedup_id(key, b""));
        let event = Event { payload, event_type, occurred_at, metadata, dedup, ..bare_event() };
        prop_assert_eq!(decode_event(&encode_event(&event).unwrap()).unwrap(), event);
    }
}

/// Writes the golden bytes of the newest version. Run it by hand once, when a version is added. It keeps existing
/// files.
#[test]
#[ignore = "writes files; only for a new version"]
fn write_golden_bytes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/avro/golden");
    for (name, bytes) in [
        ("event.v3.bin", encode_event(&full_event())),
        ("event-bare.v3.bin", encode_event(&bare_event())),
        ("ack.v1.bin", encode_ack(&ack())),
        ("delivery_attempt.v4.bin", encode_attempt(&attempt())),
        ("delivery_attempt-bare.v4.bin", encode_attempt(&attempt_v1())),
    ] {
        let path = std::path::Path::new(folder).join(name);
        if std::fs::metadata(&path).map_or(true, |file| file.len() == 0) {
            std::fs::write(path, bytes.unwrap()).unwrap();
        }
    }
}
