//! Thousands of arbitrary and mutated records on the real topics: each becomes a row, a duplicate or a dead letter, and
//! the next good record is written.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use fuzz::{JSON, Rng, Samples};
use kafka::producer::Appended;
use schemas::codec::{encode_ack, encode_attempt, encode_event};
use schemas::ids::{EndpointId, OrgId};
use schemas::native::{self, NativeRecord};
use schemas::records::{Ack, Dedup, DeliveryOutcome, Event};
use testkit::records::attempt;
use uuid::Uuid;

use super::harness::{Bench, event, keyed, stranger};

/// Records of each topic.
const RECORDS: u64 = 3000;
/// Concurrent appends: as many as Kafka accepts without rejecting some.
const AT_ONCE: usize = 200;

/// One record as it was written, and its position.
struct Written {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    appended: Appended,
}

impl Written {
    fn native<'a>(&'a self, topic: &'a str) -> NativeRecord<'a> {
        NativeRecord {
            topic,
            partition: self.appended.partition,
            offset: self.appended.offset,
            timestamp_ms: self.appended.timestamp_ms.unwrap(),
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
        }
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Headers that name the encoding of a value, and valid values.
type Kind = (Vec<(&'static str, &'static [u8])>, Vec<Vec<u8>>);

fn events(org: OrgId) -> Vec<Kind> {
    let full = Event {
        payload: r#"{"id": 7, "text": "\u00e9\u0000\ud83d\ude00"}"#.to_owned(),
        occurred_at: Some(1_795_251_600_123_456),
        source: Some("shop".to_owned()),
        ordering_key: Some("customer-9".to_owned()),
        metadata: BTreeMap::from([("a".to_owned(), "1".to_owned())]),
        ..keyed(org, Dedup::idempotency_key("k", b"body"))
    };
    let avro = [full, event(org), keyed(org, Dedup::dedup_id("d", b"body"))]
        .iter()
        .map(|event| encode_event(event).unwrap())
        .collect();
    let json = texts(&[
        r#"{"event_type": "order.created", "payload": {"id": 7, "n": [1.50, null, "\u0000\u00e9"]}, "dedup_id": "ord-7",
            "timestamp": "2026-11-21T09:00:00.123456Z", "source": "shop",
            "ordering_key": "o", "metadata": {"k": "v"}}"#,
        r#"{"type":"a","data":1}"#,
        r#"{"type":"a","data":"x","timestamp":"9999-12-31T23:59:59.999999Z"}"#,
        r#"{"type":"a","data":"x","timestamp":"0001-01-01T00:00:00Z"}"#,
    ]);
    let cloud = texts(&[r#"{"specversion":"1.0","id":"1","source":"s","type":"a","ext":7,"data":{"a":[1,2]}}"#]);
    let binary = vec![("ce_specversion", &b"1.0"[..]), ("ce_id", b"1"), ("ce_source", b"s"), ("ce_type", b"a")];
    vec![
        (vec![("content-type", b"application/avro")], avro),
        (vec![("content-type", b"application/json")], json.clone()),
        (vec![], json),
        (vec![("content-type", b"application/cloudevents+json")], cloud),
        (binary, texts(&["{\"a\": 1}", "\u{0}\u{1}"])),
    ]
}

/// Appends mutated records of these kinds under the keys of `orgs`, and some under other keys and headers.
async fn write(bench: &Bench, topic: &str, orgs: &[OrgId], kinds: &[Kind]) -> Vec<Written> {
    let mut rng = Rng::of(7, 0);
    let mut wanted = Vec::new();
    for (number, (headers, golden)) in kinds.iter().enumerate() {
        let samples = Samples { golden, tokens: JSON, header: 10, large: 530_000 };
        for value in fuzz::records(&format!("{topic} {number}"), &samples, RECORDS / kinds.len() as u64) {
            let org = rng.choose(orgs).unwrap().to_string().into_bytes();
            let mut headers: Vec<(String, Vec<u8>)> =
                headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
            let (mut key, mut value) = (Some(org), Some(value));
            match rng.below(40) {
                0 => key = None,
                1 => key = Some(b"\x00\xff".to_vec()),
                2 => key = Some(stranger(0).to_string().into_bytes()),
                3 => value = None,
                4 => headers.push(("traceparent".to_owned(), b"\x00\xff".to_vec())),
                5 => headers.push(("triggers-origin-topic".to_owned(), b"\x00".to_vec())),
                6 => {
                    headers =
                        vec![("Content-Type".to_owned(), b"application/avro".to_vec()), (String::new(), vec![0; 300])]
                }
                _ => {}
            }
            wanted.push((key, value, headers));
        }
    }
    let mut written = Vec::new();
    for some in wanted.chunks(AT_ONCE) {
        let appended = join_all(some.iter().map(|(key, value, headers)| async move {
            let headers: Vec<(&str, &[u8])> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
            bench.append(topic, key.as_deref(), value.as_deref(), &headers).await
        }))
        .await;
        written.extend(some.iter().cloned().zip(appended).map(|((key, value, headers), appended)| Written {
            key,
            value,
            headers,
            appended,
        }));
    }
    written
}

async fn ids(bench: &Bench, sql: &'static str) -> Vec<(Uuid, Uuid)> {
    let mut ids: Vec<(Uuid, Uuid)> = sqlx::query_as(sql).fetch_all(&bench.pool).await.unwrap();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_record_is_a_row_a_duplicate_or_a_dead_letter() {
    let bench = Bench::start().await;
    let orgs = [bench.organization(0).await, bench.organization(1).await, bench.organization(2).await];
    let topics = bench.topics().clone();
    let of_acks = vec![
        (
            vec![("content-type", &b"application/avro"[..])],
            vec![encode_ack(&Ack { org_id: orgs[0], event_id: event(orgs[0]).event_id }).unwrap()],
        ),
        (vec![], texts(&[r#"{"event_ids": ["0192f0c1-2345-7abc-8def-0123456789ac"]}"#])),
    ];
    let one = attempt(orgs[0], event(orgs[0]).event_id, EndpointId::generate(), 1, DeliveryOutcome::Failed);
    let of_deliveries = vec![(vec![], vec![encode_attempt(&one).unwrap()])];
    let events = write(&bench, &topics.events, &orgs, &events(orgs[0])).await;
    let acks = write(&bench, &topics.acks, &orgs, &of_acks).await;
    let deliveries = write(&bench, &topics.deliveries, &orgs, &of_deliveries).await;
    let mut good = Vec::new();
    for org in orgs {
        let event = event(org);
        bench.event(&event).await;
        good.push(event);
    }

    let projecting = bench.project();
    bench.all_applied().await;
    for event in &good {
        assert!(bench.row(event.org_id, event.event_id).await.is_some());
    }

    // The decoders give the expected outcome of each record; their own tests check them against the contract.
    let is_known_org = |org: OrgId| orgs.contains(&org);
    let (mut expected_ids, mut expected_dead_letters) = (Vec::new(), Vec::new());
    let position =
        |topic: &str, written: &Written| (topic.to_owned(), written.appended.partition, written.appended.offset);
    for written in &events {
        match native::read_event(&written.native(&topics.events)) {
            Ok(event) if is_known_org(event.org_id) => {
                expected_ids.push((event.org_id.as_uuid(), event.event_id.as_uuid()))
            }
            Ok(_) => expected_dead_letters.push((position(&topics.events, written), "unknown_organization")),
            Err(error) => expected_dead_letters.push((position(&topics.events, written), error.class)),
        }
    }
    for written in &acks {
        if let Err(error) = native::read_acks(written.key.as_deref(), written.value.as_deref(), &written.headers) {
            expected_dead_letters.push((position(&topics.acks, written), error.class));
        }
    }
    for written in &deliveries {
        if let Err(error) = native::read_attempt(written.key.as_deref(), written.value.as_deref()) {
            expected_dead_letters.push((position(&topics.deliveries, written), error.class));
        }
    }
    expected_ids.extend(good.iter().map(|event| (event.org_id.as_uuid(), event.event_id.as_uuid())));
    expected_ids.sort_unstable();
    // Mutated records that kept their event id are one event.
    expected_ids.dedup();
    let rows = ids(
        &bench,
        "SELECT org_id, event_id FROM view.events UNION ALL SELECT org_id, event_id FROM contract.duplicates",
    )
    .await;
    assert_eq!(rows.len(), expected_ids.len(), "rows and duplicates");
    assert!(rows == expected_ids, "the rows and duplicates are the readable records");

    let dead_letters = bench.dead_letters().await;
    let mut found: Vec<_> = dead_letters
        .iter()
        .map(|dead_letter| (dead_letter.position(), dead_letter.header("triggers-dlq-error-class")))
        .collect();
    found.sort_unstable();
    expected_dead_letters.sort_unstable();
    assert!(found == expected_dead_letters, "{} dead letters instead of {}", found.len(), expected_dead_letters.len());
    assert!(dead_letters.iter().all(|dead_letter| dead_letter.header("triggers-dlq-error-message").len() > 10));
    println!("{} rows and duplicates, {} dead letters", rows.len(), dead_letters.len());
    projecting.is_ready(true).await;
    projecting.stop().await;
}
