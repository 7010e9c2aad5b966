//! Fuzz tests of every decoder of foreign bytes. A decoder never panics and is fast. A record that it accepts is within
//! the limits; for a record that it refuses, it returns a class and a sentence, which the dead letter needs.
//!
//! `DECODER_RECORDS` is the number of records for each decoder; see the crate `fuzz`.

use fuzz::DecodeOutcome::{Read, Refused};
use fuzz::{DecodeOutcome, drive};
use schemas::batch::{self, Item, Line, Lines};
use schemas::codec::{self, DecodeError};
use schemas::event_json::{
    self, Invalid, MAX_BATCH_EVENTS, MAX_BODY_BYTES, MAX_METADATA_PAIRS, MAX_PAYLOAD_BYTES, MAX_TEXT_CHARS,
    MAX_TIME_MICROS, MIN_TIME_MICROS, NewEvent,
};
use schemas::ids::{EventId, OrgId};
use schemas::native::{
    self, MAX_ACKS_PER_RECORD, MAX_ERROR_BYTES, MAX_RESPONSE_EXCERPT_BYTES, NativeRecord, Unreadable,
};
use schemas::position::RecordPosition;
use schemas::records::Event;
use schemas::{cloudevents, trace};
use serde::de::IgnoredAny;

use crate::samples::{self, ID, ORG, TRACE};

type Header = (String, Vec<u8>);

/// All error classes that [`Unreadable`] documents.
const CLASSES: [&str; 13] = [
    "null_value",
    "bad_key",
    "key_not_canonical",
    "value_too_large",
    "payload_too_large",
    "malformed",
    "invalid_event",
    "invalid_ack",
    "invalid_attempt",
    "bad_avro",
    "unknown_schema",
    "organization_mismatch",
    "bad_origin",
];

fn ensure(holds: bool, sentence: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(sentence.to_owned()) }
}

fn refused(error: &Unreadable) -> Result<DecodeOutcome, String> {
    ensure(CLASSES.contains(&error.class), &format!("a refusal of the class {}", error.class))?;
    check_sentence(&error.message)?;
    ensure(error.message.len() <= 1024, "a refusal that is too long for a header")?;
    Ok(Refused)
}

fn check_sentence(text: &str) -> Result<DecodeOutcome, String> {
    ensure(text.len() > 10 && text.contains(' '), &format!("a refusal that says {text:?}"))?;
    Ok(Refused)
}

fn new_event(outcome: Result<NewEvent, Invalid>) -> Result<DecodeOutcome, String> {
    match outcome {
        Ok(new) => is_within_limits(&new.into_event(ORG.parse().unwrap(), ID.parse().unwrap(), None, None)),
        Err(error) => check_sentence(&error.to_string()),
    }
}

/// Checks the limits that other crates rely on, and that the encoded event decodes to the same event.
fn is_within_limits(event: &Event) -> Result<DecodeOutcome, String> {
    let text = |text: &str| (1..=MAX_TEXT_CHARS).contains(&text.chars().count()) && !text.contains('\0');
    ensure(text(&event.event_type) && event.event_type.trim() == event.event_type, "a wrong event type was accepted")?;
    ensure(!event.event_type.contains(char::is_control), "a control character in an event type was accepted")?;
    ensure(event.payload.len() <= MAX_PAYLOAD_BYTES, "a payload over the limit was accepted")?;
    ensure(serde_json::from_str::<IgnoredAny>(&event.payload).is_ok(), "a payload that is not JSON was accepted")?;
    ensure(event.source.as_deref().is_none_or(text), "a wrong source was accepted")?;
    ensure(event.ordering_key.as_deref().is_none_or(text), "a wrong ordering key was accepted")?;
    let dedup = event.dedup.as_ref();
    ensure(dedup.is_none_or(|dedup| text(&dedup.key) && dedup.window_seconds > 0), "a wrong dedup key was accepted")?;
    ensure(
        event.occurred_at.is_none_or(|micros| (MIN_TIME_MICROS..=MAX_TIME_MICROS).contains(&micros)),
        "a time out of range was accepted",
    )?;
    let pair = |(key, value): (&String, &String)| {
        text(key) && value.chars().count() <= MAX_TEXT_CHARS && !value.contains('\0')
    };
    ensure(event.metadata.len() <= MAX_METADATA_PAIRS && event.metadata.iter().all(pair), "wrong metadata were taken")?;

    let value = codec::encode_event(event).map_err(|error| error.to_string())?;
    let again = native::read_event(&record(Some(ORG.as_bytes()), Some(&value), &[]));
    ensure(again.as_ref() == Ok(event), &format!("written and read it is {again:?}"))?;
    Ok(Read)
}

const fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>, headers: &'a [Header]) -> NativeRecord<'a> {
    NativeRecord {
        topic: "triggers.events.v1",
        partition: 3,
        offset: 42,
        timestamp_ms: 1_700_000_000_000,
        key,
        value,
        headers,
    }
}

#[test]
fn event_json() {
    drive("event JSON", &samples::json(&samples::events()), |bytes| new_event(event_json::parse(bytes)));
}

#[test]
fn structured_cloud_events() {
    drive("structured CloudEvent", &samples::json(&samples::structured()), |bytes| {
        new_event(cloudevents::structured(bytes))
    });
}

#[test]
fn batches_of_cloud_events() {
    let items: Vec<String> = samples::structured().into_iter().map(|item| String::from_utf8(item).unwrap()).collect();
    let golden = samples::texts(&[&format!("[{}]", items.join(", ")), &format!("[{}]", items[2]), "[1, {}]"]);
    drive("batch of CloudEvents", &samples::json(&golden), |bytes| match batch::array(bytes) {
        Ok(items) => items_of(items),
        Err(error) => check_sentence(&error.to_string()),
    });
}

/// Reads the items of a batch. It is read if one of them is.
fn items_of(items: Vec<Item<'_>>) -> Result<DecodeOutcome, String> {
    ensure((1..=MAX_BATCH_EVENTS).contains(&items.len()), "a batch with a wrong number of events was accepted")?;
    items.into_iter().try_fold(Refused, |all, item| Ok(if new_event(item.parse())? == Read { Read } else { all }))
}

#[test]
fn batches_of_events() {
    let items: Vec<String> = samples::events().into_iter().map(|item| String::from_utf8(item).unwrap()).collect();
    let golden = samples::texts(&[
        &format!(r#"{{"events": [{}]}}"#, items.join(", ")),
        &format!(r#"{{ "events":[{}] , "events": [1]}}"#, items[1]),
        r#"{"events": [1, {}, "x"], "more": {}}"#,
    ]);
    drive("batch of events", &samples::json(&golden), |bytes| match batch::events(bytes) {
        Ok(items) => items_of(items),
        Err(error) => check_sentence(&error.to_string()),
    });
}

#[test]
fn events_in_lines() {
    const LONGEST: usize = 4096;
    let items: Vec<String> =
        samples::events().iter().map(|item| String::from_utf8_lossy(item).replace('\n', " ")).collect();
    let golden = samples::texts(&[&items.join("\n"), &items.join("\r\n\n"), "1\n{}\n"]);
    drive("NDJSON", &samples::json(&golden), |bytes| {
        // The first byte decides how the rest arrives.
        let step = 1 + usize::from(bytes.first().copied().unwrap_or_default());
        let (mut lines, mut outcome) = (Lines::new(LONGEST), Refused);
        let mut read = |line: Line<'_>| {
            let Line::Text(text) = line else { return Ok(()) };
            ensure(text.len() <= LONGEST && !text.contains(&b'\n'), "a wrong line was split off")?;
            if new_event(event_json::parse(&text))? == Read {
                outcome = Read;
            }
            Ok::<(), String>(())
        };
        for mut piece in bytes.chunks(step) {
            while let Some(line) = lines.next(&mut piece) {
                read(line)?;
            }
        }
        lines.finish().map_or(Ok(()), &mut read)?;
        Ok(outcome)
    });
}

/// Header lines up to an empty line, and the body after it.
fn head_and_body(bytes: &[u8]) -> (Vec<Header>, &[u8]) {
    let (head, body) = bytes
        .windows(2)
        .position(|two| two == b"\n\n")
        .map_or((bytes, &b""[..]), |at| (&bytes[..at], &bytes[at + 2..]));
    let header = |line: &[u8]| {
        let at = line.windows(2).position(|two| two == b": ").unwrap_or(line.len());
        (String::from_utf8_lossy(&line[..at]).into_owned(), line.get(at + 2..).unwrap_or_default().to_vec())
    };
    (head.split(|byte| *byte == b'\n').map(header).collect(), body)
}

#[test]
fn binary_cloud_events() {
    drive("binary CloudEvent", &samples::json(&samples::binary()), |bytes| {
        let (headers, body) = head_and_body(bytes);
        let texts: Vec<(&str, &str)> = headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value).ok()?)))
            .collect();
        let content_type = texts.iter().find(|(name, _)| *name == "content-type").map(|(_, value)| *value);
        new_event(cloudevents::binary(
            texts.iter().filter(|(name, _)| *name != "content-type").copied(),
            content_type,
            Some(body),
        ))
    });
}

fn decoded<T>(outcome: Result<T, DecodeError>) -> Result<DecodeOutcome, String> {
    outcome.map_or_else(|error| check_sentence(&error.to_string()), |_| Ok(Read))
}

#[test]
fn avro_events() {
    // Bytes of another record too, for splices of both.
    let golden = [samples::avro_events(), samples::avro_acks()].concat();
    drive("Avro event", &samples::avro(&golden), |bytes| decoded(codec::decode_event(bytes)));
}

/// The mutations contain lengths and counts that are too large; in this record they are correct.
#[test]
fn an_avro_event_with_a_huge_map_is_refused() {
    let bare = &samples::avro_events()[0];
    // The last three bytes are the end of the map, no dedup and no trace context.
    let (head, tail) = bare.split_at(bare.len() - 3);
    let mut value = head.to_vec();
    let mut pairs = 0;
    while value.len() < MAX_BODY_BYTES - 100 {
        // Blocks of one pair: a count of one, a key of six bytes, an empty value; zigzag.
        value.extend_from_slice(&[2, 12]);
        value.extend_from_slice(format!("{pairs:06}").as_bytes());
        value.push(0);
        pairs += 1;
    }
    value.extend_from_slice(tail);
    assert_eq!(codec::decode_event(&value).unwrap().metadata.len(), pairs);
    let error = native::read_event(&record(Some(ORG.as_bytes()), Some(&value), &[])).unwrap_err();
    assert_eq!(error.class, "invalid_event");
    assert_eq!(refused(&error), Ok(Refused));
}

#[test]
fn avro_acks() {
    drive("Avro ack", &samples::avro(&samples::avro_acks()), |bytes| decoded(codec::decode_ack(bytes)));
}

#[test]
fn avro_attempts() {
    drive("Avro attempt", &samples::avro(&samples::avro_attempts()), |bytes| decoded(codec::decode_attempt(bytes)));
}

/// Parses a record from one text: the key in the first line, headers as above, then the value. The key `-` means no
/// key, and a value that starts with `-` means no value.
fn native(bytes: &[u8]) -> (Option<&[u8]>, Vec<Header>, Option<&[u8]>) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let key = (bytes[..end] != *b"-").then_some(&bytes[..end]);
    let (headers, value) = head_and_body(bytes.get(end + 1..).unwrap_or_default());
    (key, headers, (value.first() != Some(&b'-')).then_some(value))
}

/// Each value as a separate record, with and without headers that declare its encoding.
fn native_golden(values: &[(&str, Vec<Vec<u8>>)]) -> Vec<Vec<u8>> {
    let record = |head: &str, value: &[u8]| [ORG.as_bytes(), b"\n", head.as_bytes(), b"\n\n", value].concat();
    values
        .iter()
        .flat_map(|(head, values)| {
            values.iter().flat_map(move |value| [record(head, value), record("x-mine: kept", value)])
        })
        .collect()
}

#[test]
fn native_events() {
    let binary = "ce_specversion: 1.0\nCE_ID: 1\nce_source: /shop\nce_type: a\ncontent-type: application/json";
    let origin = "triggers-origin-topic: triggers.events.v1\ntriggers-origin-partition: 3\ntriggers-origin-offset: 42\n\
                  triggers-origin-timestamp: 1700000000000";
    let golden = native_golden(&[
        ("content-type: application/avro", samples::avro_events()),
        (&format!("content-type: application/json\ntraceparent: {TRACE}"), samples::events()),
        ("content-type: application/cloudevents+json; charset=utf-8", samples::structured()),
        (binary, samples::texts(&["{\"a\": 1}", ""])),
        (origin, samples::texts(&["{\"type\": \"a\", \"data\": 1}"])),
    ]);
    drive("native event", &samples::json(&golden), |bytes| {
        let (key, headers, value) = native(bytes);
        match native::read_event(&record(key, value, &headers)) {
            Ok(event) if event.org_id.to_string() == ORG => is_within_limits(&event),
            Ok(event) => {
                let named = key.and_then(|key| std::str::from_utf8(key).ok()).and_then(|key| key.parse::<OrgId>().ok());
                ensure(named == Some(event.org_id), "an event of another organization than its key's was accepted")?;
                Ok(Read)
            }
            Err(error) => refused(&error),
        }
    });
}

#[test]
fn native_acks() {
    let golden = native_golden(&[
        ("content-type: application/avro", samples::avro_acks()),
        ("content-type: application/json", samples::json_acks()),
    ]);
    drive("native ack", &samples::json(&golden), |bytes| {
        let (key, headers, value) = native(bytes);
        match native::read_acks(key, value, &headers) {
            Ok(acks) => {
                ensure((1..=MAX_ACKS_PER_RECORD).contains(&acks.len()), "a wrong number of acks was accepted")?;
                Ok(Read)
            }
            Err(error) => refused(&error),
        }
    });
}

#[test]
fn native_attempts() {
    let golden = native_golden(&[("content-type: application/avro", samples::avro_attempts())]);
    drive("native attempt", &samples::json(&golden), |bytes| {
        let (key, _, value) = native(bytes);
        match native::read_attempt(key, value) {
            Ok(attempt) => {
                let fits = |text: &Option<String>, bytes| {
                    text.as_ref().is_none_or(|text| text.len() <= bytes && !text.contains('\0'))
                };
                ensure(fits(&attempt.error, MAX_ERROR_BYTES), "a wrong error was accepted")?;
                ensure(fits(&attempt.response_excerpt, MAX_RESPONSE_EXCERPT_BYTES), "a wrong excerpt was accepted")?;
                ensure(attempt.attempt >= 0 && attempt.latency_ms >= 0, "a negative number was accepted")?;
                Ok(Read)
            }
            Err(error) => refused(&error),
        }
    });
}

#[test]
fn record_positions() {
    let position = |offset| RecordPosition { partition: 2, offset, appended_at_ms: 1 }.to_bytes().to_vec();
    drive("record position", &samples::short(&[position(3), position(i64::MAX)]), |bytes| {
        match RecordPosition::from_bytes(bytes) {
            Some(position) => ensure(position.to_bytes() == *bytes, "a position has two byte forms").map(|()| Read),
            None => Ok(Refused),
        }
    });
}

#[test]
fn ids() {
    let golden = samples::texts(&[ID, &ID.to_uppercase(), &ID.replace('-', ""), &format!("{{{ID}}}")]);
    drive("id", &samples::short(&golden), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(Refused) };
        match text.parse::<EventId>() {
            Ok(id) => ensure(id.to_string() == text.to_lowercase(), "an id has two spellings").map(|()| Read),
            Err(error) => check_sentence(&error.to_string()),
        }
    });
}

#[test]
fn trace_contexts() {
    let golden = samples::texts(&[
        TRACE,
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "rojo=00f067aa0ba902b7,congo=t61",
    ]);
    drive("trace context", &samples::short(&golden), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(Refused) };
        let (parent, state) = (trace::is_traceparent(text), trace::is_tracestate(text));
        let one_line = text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.len() <= 512;
        ensure(one_line || !parent && !state, "a trace context that breaks a header was accepted")?;
        Ok(if parent { Read } else { Refused })
    });
}

#[test]
fn timestamps() {
    let golden = samples::texts(&[
        "2026-11-21T09:00:00Z",
        "2026-11-21t09:00:00.123456789z",
        "2026-11-21 10:00:00.5+01:00",
        "9999-12-31T23:59:59.999999999-23:59",
        "0001-01-01T00:00:00+23:59",
        "2016-12-31T23:59:60Z",
    ]);
    drive("timestamp", &samples::short(&golden), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(Refused) };
        let body = serde_json::json!({"type": "a", "data": 1, "timestamp": text}).to_string();
        match event_json::parse(body.as_bytes()) {
            Ok(new) => {
                let kept = new.occurred_at.is_some_and(|micros| (MIN_TIME_MICROS..=MAX_TIME_MICROS).contains(&micros));
                ensure(kept, "a time that cannot be stored was accepted").map(|()| Read)
            }
            Err(error) => check_sentence(&error.to_string()),
        }
    });
}

#[test]
fn percent_encoding() {
    let golden = samples::texts(&["a%20b%c3%a9", "100%", "%e2%82%ac%F0%9F%98%80", "plain"]);
    drive("percent-encoding", &samples::short(&golden), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(Refused) };
        match cloudevents::percent_decoded(text) {
            Some(decoded) => ensure(decoded.len() <= text.len(), "a text grew").map(|()| Read),
            None => Ok(Refused),
        }
    });
}
