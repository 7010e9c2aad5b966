//! CloudEvents in each mode.

use proptest::prelude::*;

use super::*;

const FULL: &str = r#"{"specversion": "1.0", "id": "A-1", "source": "/shop/1", "type": "order.created",
    "time": "2026-11-21T09:00:00Z", "subject": "o/7", "datacontenttype": "application/json",
    "dataschema": "https://a.test/s", "partitionkey": "c-9", "sequence": 12, "sampled": true,
    "absent": null, "data": { "id": 7.0 }}"#;

fn fields(result: Result<NewEvent, Invalid>) -> Vec<String> {
    match result {
        Err(Invalid::Fields(errors)) => errors.into_iter().map(|error| error.field).collect(),
        other => panic!("{other:?}"),
    }
}

/// A structured event with more members.
fn with(more: &str) -> Vec<u8> {
    format!(r#"{{"specversion": "1.0", "id": "1", "source": "s", "type": "t"{more}}}"#).into_bytes()
}

const REQUIRED: [(&str, &str); 4] = [("specversion", "1.0"), ("id", "1"), ("source", "s"), ("type", "t")];

fn binary_data(content_type: Option<&str>, body: &[u8]) -> Result<String, Invalid> {
    binary(REQUIRED.into_iter(), content_type, Some(body)).map(|event| event.payload)
}

#[test]
fn all_parts_of_a_structured_event_are_mapped() {
    let event = structured(FULL.as_bytes()).unwrap();
    assert_eq!(event.event_type, "order.created");
    assert_eq!(event.payload, "{ \"id\": 7.0 }");
    assert_eq!(event.occurred_at, Some(1_795_251_600_000_000));
    assert_eq!(event.dedup_id.as_deref(), Some("/shop/1 A-1"));
    assert_eq!(event.source.as_deref(), Some("/shop/1"));
    assert_eq!(event.ordering_key.as_deref(), Some("c-9"));
    let metadata: Vec<_> = event.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("datacontenttype", "application/json"),
        ("dataschema", "https://a.test/s"),
        ("sampled", "true"),
        ("sequence", "12"),
        ("subject", "o/7"),
    ];
    assert_eq!(metadata, expected);
}

#[test]
fn both_modes_give_the_same_event() {
    let attributes = [
        ("specversion", "1.0"),
        ("id", "A-1"),
        ("source", "/shop/1"),
        ("type", "order.created"),
        ("time", "2026-11-21T09:00:00Z"),
        ("subject", "o/7"),
        ("dataschema", "https://a.test/s"),
        ("partitionkey", "c-9"),
        ("sequence", "12"),
        ("sampled", "true"),
    ];
    let event = binary(attributes.into_iter(), Some("application/json"), Some(b"{ \"id\": 7.0 }")).unwrap();
    assert_eq!(event, structured(FULL.as_bytes()).unwrap());
}

#[test]
fn four_attributes_are_required() {
    assert_eq!(fields(structured(b"{}")), ["specversion", "id", "source", "type"]);
    assert_eq!(fields(binary(std::iter::empty(), None, Some(b""))), ["specversion", "id", "source", "type"]);
    assert_eq!(
        fields(structured(br#"{"specversion": "0.3", "id": "", "source": "s", "type": null}"#)),
        ["specversion", "id", "type"]
    );
}

#[test]
fn attributes_that_are_texts_are_no_other_scalar() {
    for name in TEXT_ATTRIBUTES {
        for value in ["7", "true", "1.0", "[]"] {
            let attributes = REQUIRED.iter().filter(|(required, _)| *required != name);
            let rest: String = attributes.map(|(name, text)| format!(r#", "{name}": "{text}""#)).collect();
            let body = format!(r#"{{"{name}": {value}{rest}}}"#);
            assert!(fields(structured(body.as_bytes())).contains(&name.to_owned()), "{name} as {value} is refused");
        }
    }
    assert!(structured(&with(r#", "sampled": true, "sequence": 12"#)).is_ok(), "an extension may be any scalar");
}

#[test]
fn data_may_be_absent_any_json_or_base64() {
    assert_eq!(structured(&with("")).unwrap().payload, "null");
    assert_eq!(structured(&with(r#", "data": "x""#)).unwrap().payload, "\"x\"");
    assert_eq!(fields(structured(&with(r#", "data_base64": "A""#))), ["data_base64"]);
    assert_eq!(fields(structured(&with(r#", "data_base64": 1"#))), ["data_base64"]);
    assert_eq!(fields(structured(&with(r#", "data": 1, "data_base64": "AAE=""#))), ["data_base64"]);
    let large = with(&format!(r#", "data": "{}""#, "x".repeat(256 * 1024)));
    assert!(matches!(structured(&large), Err(Invalid::PayloadTooLarge { .. })));
}

#[test]
fn base64_differs_from_a_string_that_looks_the_same() {
    let read = |more: &str| {
        let event = structured(&with(more)).unwrap();
        (event.payload, event.payload_encoding.map(PayloadEncoding::as_str))
    };
    let payload = |text: &str, encoding| (text.to_owned(), encoding);
    assert_eq!(read(r#", "data": "aGVsbG8=""#), payload("\"aGVsbG8=\"", None));
    assert_eq!(read(r#", "data_base64": "aGVsbG8=""#), payload("\"aGVsbG8=\"", Some("base64")));
    assert_eq!(read(r#", "data_base64": "\u0061GVsbG8=""#), payload("\"aGVsbG8=\"", Some("base64")));
    assert_eq!(read(r#", "data_base64": "", "datacontenttype": "image/png""#), payload("\"\"", Some("base64")));
    for json in ["application/json", "Application/X+JSON; charset=utf-8", "text/json"] {
        let more = format!(r#", "datacontenttype": "{json}", "data_base64": "IHsiYSI6IDEuMH0K""#);
        assert_eq!(read(&more), payload("{\"a\": 1.0}", None), "{json} is the JSON itself");
        let more = format!(r#", "datacontenttype": "{json}", "data_base64": """#);
        assert_eq!(read(&more), payload("null", None));
        for not_json in ["aGVsbG8=", "//8="] {
            let more = format!(r#", "datacontenttype": "{json}", "data_base64": "{not_json}""#);
            assert_eq!(fields(structured(&with(&more))), ["data_base64"]);
        }
    }
}

#[test]
fn binary_data_is_kept_by_its_content_type() {
    let encoding = |content_type| {
        binary(REQUIRED.into_iter(), Some(content_type), Some(b"1"))
            .unwrap()
            .payload_encoding
            .map(PayloadEncoding::as_str)
    };
    assert_eq!(encoding("image/png"), Some("base64"));
    assert_eq!((encoding("application/json"), encoding("text/plain")), (None, None));
    assert_eq!(binary_data(None, b" {\"a\":  1} ").unwrap(), "{\"a\":  1}");
    assert_eq!(binary_data(Some("application/vnd.x+JSON; charset=utf-8"), b"[1]").unwrap(), "[1]");
    assert_eq!(binary_data(Some("application/json"), b"").unwrap(), "null");
    assert_eq!(binary_data(Some("text/plain"), b"a\"b").unwrap(), "\"a\\\"b\"");
    assert_eq!(binary_data(Some("text/json"), b"{}").unwrap(), "{}");
    assert_eq!(binary_data(Some("application/octet-stream"), &[0, 255]).unwrap(), "\"AP8=\"");
    assert_eq!(fields(binary(REQUIRED.into_iter(), None, Some(b"{"))), ["data"]);
    assert_eq!(fields(binary(REQUIRED.into_iter(), None, Some(br#""\ud800""#))), ["data"]);
    assert_eq!(
        fields(binary(REQUIRED.into_iter(), None, Some(&[b"[".repeat(65), b"]".repeat(65)].concat()))),
        ["data"]
    );
    assert!(matches!(binary_data(Some("text/plain"), &[255]), Err(Invalid::Malformed { .. })));
    assert!(matches!(binary_data(Some("image/png"), &vec![0; 200 * 1024]), Err(Invalid::PayloadTooLarge { .. })));
}

#[test]
fn attributes_have_the_limits_of_every_event() {
    let long = "x".repeat(256);
    assert_eq!(fields(structured(&with(&format!(r#", "partitionkey": "{long}""#)))), ["partitionkey"]);
    assert_eq!(fields(structured(&with(r#", "time": "now""#))), ["time"]);
    assert_eq!(fields(structured(&with(r#", "ext": {}, "frac": 1.5"#))), ["ext", "frac"]);
    let private = r#", "ext": {"$serde_json::private::RawValue": "\"x\""}"#;
    assert_eq!(fields(structured(&with(private))), ["ext"], "an object stays one");
    assert_eq!(fields(structured(&with(&format!(r#", "ext": "{long}""#)))), ["metadata.ext"]);
    let many: String = (0..33).map(|i| format!(r#", "e{i}": 1"#)).collect();
    assert_eq!(fields(structured(&with(&many))), ["metadata"]);
    let far_too_many: String = (0..1000).map(|i| format!(r#", "e{i}": 1"#)).collect();
    assert!(fields(structured(&with(&far_too_many))).contains(&"metadata".to_owned()));
    assert_eq!(
        fields(structured(br#"{"specversion": "1.0", "id": "1\u0000", "source": "a b", "type": "triggers.x"}"#)),
        ["id", "source", "type"]
    );
    assert!(matches!(structured(&with(r#", "id": "2""#)), Err(Invalid::Malformed { .. })));
    let duplicate = REQUIRED.into_iter().chain([("id", "2")]);
    assert_eq!(fields(binary(duplicate, None, Some(b""))), ["id"]);
}

#[test]
fn a_long_source_and_id_are_hashed() {
    let id = "i".repeat(254);
    assert_eq!(dedup_id("s", &id[1..]), format!("s {}", &id[1..]));
    assert_eq!(dedup_id("s", &id), sha256_hex(&[b"s ", id.as_bytes()]));
}

#[test]
fn percent_encoding_is_decoded_and_other_percents_stay() {
    for (value, text) in [
        ("a", Some("a")),
        ("Euro%20%E2%82%AC", Some("Euro \u{20ac}")),
        ("%", Some("%")),
        ("%4", Some("%4")),
        ("%zz%41", Some("%zzA")),
        ("%+1", Some("%+1")),
        ("%FF", None),
    ] {
        assert_eq!(percent_decoded(value).as_deref(), text, "{value}");
    }
}

proptest! {
    #[test]
    fn different_sources_and_ids_never_share_a_dedup_id(
        a in "[a/:]{1,3}", b in "[a/: ]{1,3}", c in "[a/:]{1,3}", d in "[a/: ]{1,3}",
    ) {
        prop_assert_eq!(dedup_id(&a, &b) == dedup_id(&c, &d), (a, b) == (c, d));
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..100), name in ".*", value in ".*",
    ) {
        drop(structured(&bytes));
        drop(binary(REQUIRED.into_iter().chain([(name.as_str(), value.as_str())]), Some(&value), Some(&bytes)));
    }
}
