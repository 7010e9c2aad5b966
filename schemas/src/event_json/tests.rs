//! Parsing and validation of new events.

use proptest::prelude::*;

use super::*;

fn fields(body: &str) -> Vec<(String, String)> {
    match parse(body.as_bytes()) {
        Err(Invalid::Fields(errors)) => errors.into_iter().map(|error| (error.field, error.reason)).collect(),
        other => panic!("{body}: {other:?}"),
    }
}

fn malformed(body: &[u8]) -> String {
    match parse(body) {
        Err(Invalid::Malformed { message }) => message,
        other => panic!("{}: {other:?}", String::from_utf8_lossy(body)),
    }
}

fn accepted(body: &str) -> NewEvent {
    parse(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

#[test]
fn a_full_event_is_read_with_its_payload_verbatim() {
    let event = accepted(
        r#" {"event_type": "order.created",
             "payload": { "id" : 7.0e0,  "b":"\u0041\u0000\/", "id": 1e999 } , "dedup_id": "ord-7",
             "timestamp": "2026-11-21T09:00:00.1234567+01:00", "source": "shop", "ordering_key": "customer-9",
             "metadata": {"k": "v", "e": ""}, "unknown": [{"x": 1}], "unknown": 2} "#,
    );
    assert_eq!(event.event_type, "order.created");
    assert_eq!(event.payload, r#"{ "id" : 7.0e0,  "b":"\u0041\u0000\/", "id": 1e999 }"#);
    assert_eq!(event.occurred_at, Some(1_795_248_000_123_456));
    assert_eq!(event.dedup_id.as_deref(), Some("ord-7"));
    assert_eq!(event.source.as_deref(), Some("shop"));
    assert_eq!(event.ordering_key.as_deref(), Some("customer-9"));
    assert_eq!(event.metadata, BTreeMap::from([("e".to_owned(), String::new()), ("k".to_owned(), "v".to_owned())]));
}

#[test]
fn any_json_value_is_a_payload_and_null_elsewhere_means_absent() {
    for payload in ["null", "true", "-0", "\"\"", "[]", "{}", "1.50"] {
        assert_eq!(accepted(&format!(r#"{{"type": "a", "data": {payload}}}"#)).payload, payload);
    }
    let event = accepted(
        r#"{"type": null, "event_type": "a", "payload": null, "dedup_id": null, "source": null, "ordering_key": null,
            "timestamp": null, "metadata": null}"#,
    );
    assert_eq!((event.dedup_id, event.source, event.ordering_key, event.occurred_at), (None, None, None, None));
    assert!(event.metadata.is_empty());
}

#[test]
fn both_aliases_are_allowed_if_they_are_equal() {
    assert_eq!(accepted(r#"{"type": "a\u0062", "event_type": "ab", "payload": [1], "data": [1]}"#).event_type, "ab");
    assert_eq!(fields(r#"{"type": "a", "event_type": "b", "payload": 1}"#)[0].0, "event_type");
    assert_eq!(fields(r#"{"type": "a", "data": [1], "payload": [ 1]}"#)[0].0, "payload");
    assert_eq!(fields(r#"{"type": "a", "data": null, "payload": 1}"#)[0].0, "payload");
}

#[test]
fn a_duplicate_key_of_the_envelope_is_malformed() {
    let message = malformed(b"{\"type\": \"a\",\n \"payload\": 1, \"type\": \"a\"}");
    assert_eq!(message, "the key \"type\" is duplicated at line 2 column 24");
    assert!(malformed(br#"{"payload": 1, "pay\u006coad": 1, "type": "a"}"#).contains("duplicated"));
}

#[test]
fn malformed_bodies_are_reported_with_line_and_column() {
    for (body, position) in [
        (&b""[..], "line 1 column 1"),
        (b" \n ", "line 1 column 1"),
        (b"\xEF\xBB\xBF{}", "line 1 column 1"),
        (b"{\"type\":\n \"a\xFF\"}", "line 2 column 4"),
        (b"\n[1]", "line 2 column 1"),
        (b"\"text\"", "line 1 column 1"),
        (b"nope", "line 1 column 1"),
        (b"{\"type\": \"a\" \"data\": 1}", "line 1 column 14"),
        (b"{\"type\": \"a\", \"data\": 1} x", "line 1 column 26"),
        (b"{\"type\": \"a\", \"data\": 1}{}", "line 1 column 25"),
        (b"{\"type\": \"a\", \"data\": 01}", "line 1 column 24"),
        (b"{\"type\": \"a\", \"data\": \"\t\"}", "line 1 column 23"),
        (b"{\"type\": \"a\", \"data\": \"\\x\"}", "line 1 column 25"),
        (b"{\"type\": \"a\", \"data\": NaN}", "line 1 column 23"),
        (b"{\"type\": \"a\", \"data\": [1,]}", "line 1 column 26"),
        (b"{\"type\": \"a\", \"data\": ", "line 1 column 22"),
        (b"{\"type\": \"\\ud800\", \"data\": 1}", "line 1 column 11"),
        (b"{\"type\": \"a\", \"data\": 1, \"x\": [\"\\udc00\"]}", "line 1 column 33"),
        (b"{\"\\ud800\": 1}", "line 1 column"),
    ] {
        let message = malformed(body);
        assert!(message.contains(position), "{} gave {message}", String::from_utf8_lossy(body));
    }
}

#[test]
fn flaws_inside_the_payload_are_errors_of_the_payload() {
    let [(field, reason)] = &fields("{\"type\": \"a\",\n\"payload\": {\"k\": \"\\uDBFF\"}}")[..] else { panic!() };
    assert_eq!((field.as_str(), reason.as_str()), ("payload", "contains a lone surrogate at line 2 column 19"));
    let nested = |depth: usize| format!(r#"{{"type": "a", "data": {}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    accepted(&nested(64));
    let [(field, reason)] = &fields(&nested(65))[..] else { panic!() };
    assert_eq!((field.as_str(), reason.as_str()), ("data", "is nested deeper than 64 at line 1 column 87"));
    // Far deeper than serde_json's own limit and the stack.
    assert_eq!(fields(&nested(100_000))[0].0, "data");
    accepted(r#"{"type": "a", "data": "\ud83d\ude00"}"#);
}

#[test]
fn the_payload_limit_counts_bytes_of_json_text() {
    let body = |bytes: usize| format!(r#"{{"type": "a", "data":   "{}"  }}"#, "x".repeat(bytes - 2));
    assert_eq!(accepted(&body(MAX_PAYLOAD_BYTES)).payload.len(), MAX_PAYLOAD_BYTES);
    assert_eq!(
        parse(body(MAX_PAYLOAD_BYTES + 1).as_bytes()),
        Err(Invalid::PayloadTooLarge { bytes: MAX_PAYLOAD_BYTES + 1 })
    );
}

#[test]
fn all_invalid_fields_are_reported_in_the_contracts_order() {
    let found = fields(
        r#"{"type": " ", "dedup_id": "", "timestamp": "yesterday", "source": 1, "ordering_key": "a\u0000",
            "metadata": {"k": 1, "l": null}}"#,
    );
    let names: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        names,
        ["payload", "type", "dedup_id", "timestamp", "source", "ordering_key", "metadata.k", "metadata.l"]
    );
    assert_eq!(fields("{}").iter().map(|(field, _)| field.as_str()).collect::<Vec<_>>(), ["payload", "event_type"]);
    let sentence = parse(b"{}").unwrap_err().to_string();
    assert_eq!(sentence, "payload is required; event_type is required");
}

#[test]
fn invalid_and_reserved_event_types_are_refused() {
    let body = |event_type: &str| serde_json::json!({"event_type": event_type, "payload": 1}).to_string();
    let longest = "\u{e4}".repeat(255);
    for good in ["a", "order.created", "a b", "\u{1F600}", "triggersx", "trigger.s", &longest] {
        assert_eq!(accepted(&body(good)).event_type, good);
    }
    let longer = "\u{e4}".repeat(256);
    for bad in ["", " a", "a ", "a\u{a0}", "a\nb", "a\u{0}b", "\u{7f}", "\u{85}", "triggers.x", "triggers.", &longer] {
        assert_eq!(fields(&body(bad))[0].0, "event_type", "{bad:?}");
    }
    assert!(fields(&body("triggers.endpoint.disabled"))[0].1.contains("reserved"));
    for wrong in ["1", "[]", "{}", "true"] {
        assert_eq!(
            fields(&format!(r#"{{"type": {wrong}, "data": 1}}"#)),
            [("type".to_owned(), "must be a string".to_owned())]
        );
    }
}

#[test]
fn texts_are_1_to_255_characters_without_nul() {
    for field in ["dedup_id", "source", "ordering_key"] {
        let body = |text: &str| serde_json::json!({"event_type": "a", "payload": 1, field: text}).to_string();
        let text = "\u{1F600}".repeat(255);
        accepted(&body(&text));
        for bad in ["", "\u{0}", &format!("{text}x")] {
            assert_eq!(fields(&body(bad))[0].0, field, "{bad:?}");
        }
    }
}

#[test]
fn metadata_is_at_most_32_pairs_of_strings() {
    let body = |metadata: &str| format!(r#"{{"type": "a", "data": 1, "metadata": {metadata}}}"#);
    let pairs = |count: usize| (0..count).map(|i| format!("\"{i}\": \"\"")).collect::<Vec<_>>().join(",");
    assert_eq!(accepted(&body(&format!("{{{}}}", pairs(32)))).metadata.len(), 32);
    assert_eq!(fields(&body(&format!("{{{}}}", pairs(33))))[0].0, "metadata");
    assert_eq!(fields(&body(&format!("{{{}}}", pairs(20_000)))).len(), 1);
    for bad in [
        "[]",
        "1",
        "\"\"",
        r#"{"": "v"}"#,
        r#"{"a": "1", "a": "1"}"#,
        r#"{"\u0000": "v"}"#,
        &format!(r#"{{"{}": ""}}"#, "k".repeat(256)),
    ] {
        assert_eq!(fields(&body(bad))[0].0, "metadata", "{bad}");
    }
    for bad in [r#"{"k": {}}"#, r#"{"k": null}"#, r#"{"k": "\u0000"}"#, &format!(r#"{{"k": "{}"}}"#, "v".repeat(256))] {
        assert_eq!(fields(&body(bad))[0].0, "metadata.k", "{bad}");
    }
    accepted(&body(&format!(r#"{{"{}": "{}"}}"#, "k".repeat(255), "v".repeat(255))));
}

#[test]
fn timestamps_are_rfc_3339_in_the_years_1_to_9999() {
    let body = |time: &str| format!(r#"{{"type": "a", "data": 1, "timestamp": "{time}"}}"#);
    for (time, micros) in [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.0000019z", 1),
        ("1969-12-31T23:59:59.9999999Z", -1),
        ("1970-01-01 01:00:00+01:00", 0),
        ("0001-01-01T00:00:00Z", MIN_TIME_MICROS),
        ("9999-12-31T23:59:59.999999Z", MAX_TIME_MICROS),
        ("2016-12-31T23:59:60Z", 1_483_228_799_999_999),
    ] {
        assert_eq!(accepted(&body(time)).occurred_at, Some(micros), "{time}");
    }
    for bad in [
        "",
        "2026-11-21",
        "2026-11-21T09:00:00",
        "2026-11-21T09:00Z",
        "2026-11-21x09:00:00Z",
        "2026-02-30T09:00:00Z",
        "2026-11-21T25:00:00Z",
        "2026-11-21T09:00:00+24:00",
        "2026-11-21T09:00:00Z ",
        "1795248000",
        "0000-12-31T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "10000-01-01T00:00:00Z",
        "2026-11-2\u{e4}T09:00:00Z",
    ] {
        assert_eq!(fields(&body(bad))[0].0, "timestamp", "{bad}");
    }
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        ".*".prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[ {}]", items.join(" ,\n"))),
            prop::collection::vec((".*", inner), 0..5).prop_map(|pairs| {
                let pairs: Vec<_> =
                    pairs.iter().map(|(k, v)| format!("{}:\t{v}", serde_json::to_string(k).unwrap())).collect();
                format!("{{{}}}", pairs.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn every_payload_is_kept_byte_for_byte(payload in json(), blank in "[ \n\t\r]{0,3}") {
        let body = format!("{{\"type\":\"a\",\"payload\":{blank}{payload}{blank}}}");
        prop_assert_eq!(parse(body.as_bytes()).unwrap().payload, payload);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn a_damaged_event_never_panics(at in 0_usize..120, byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut body = br#"{"type": "a\u00e4", "payload": {"a": [1, "\ud83d\ude00"]}, "metadata": {"k": "v"},
            "timestamp": "2026-11-21T09:00:00Z"}"#.to_vec();
        if let Some(target) = body.get_mut(at) { *target = byte; }
        drop(parse(&body));
        body.truncate(cut.index(body.len()));
        prop_assert!(parse(&body).is_err());
    }

    /// The materializer accepts every event that ingest accepts.
    #[test]
    fn an_accepted_event_passes_the_check_of_records(
        event_type in "\\PC{0,4}", payload in json(), dedup_id in "\\PC{0,3}",
    ) {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let (event_type, dedup_id) = (quoted(&event_type), quoted(&dedup_id));
        let body = format!("{{\"type\":{event_type},\"payload\":{payload},\"dedup_id\":{dedup_id}}}");
        if let Ok(new) = parse(body.as_bytes()) {
            let dedup = new.dedup_id.clone().map(|id| Dedup::dedup_id(id, body.as_bytes()));
            let event = new.into_event(OrgId::generate(), EventId::generate(), dedup, None);
            prop_assert_eq!(limits::check_event(&event, false), Ok(()));
        }
    }
}
