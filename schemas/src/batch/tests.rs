use proptest::prelude::*;

use super::*;

fn refused(body: &str) -> String {
    let Err(invalid) = events(body.as_bytes()) else { panic!("{body} is accepted") };
    invalid.to_string()
}

fn texts<'a>(items: &[Item<'a>]) -> Vec<&'a str> {
    items.iter().map(Item::text).collect()
}

#[test]
fn the_items_of_a_batch_are_borrowed_as_they_are() {
    let body = br#" {"events" : [ {"a" : 1.0} ,null, [1, 2],"x" ] } "#;
    assert_eq!(texts(&events(body).unwrap()), [r#"{"a" : 1.0}"#, "null", "[1, 2]", r#""x""#]);
    assert_eq!(texts(&array(br#"[ {"a" : 1.0},2]"#).unwrap()), [r#"{"a" : 1.0}"#, "2"]);
}

#[test]
fn a_batch_of_the_usual_form_is_read_in_one_pass() {
    let usual = "{\n \"events\": [\t{\"event_type\": \"a\", \"payload\": [1] } ,\r\n{}] }\n";
    assert_eq!(texts(&one_pass::read(usual).unwrap()), [r#"{"event_type": "a", "payload": [1] }"#, "{}"]);
    for other in [
        r#"{"events": []}"#,
        r#"{"events": [{},]}"#,
        r#"{"events": [{} {}]}"#,
        r#"{"events": [{}, 1]}"#,
        r#"{"events": [{"a": 01}]}"#,
        r#"{"events": [{}], "more": 1}"#,
        r#"{"events": [{}]} x"#,
        r#"{"events": [{}]"#,
        r#"{"more": 1, "events": [{}]}"#,
        "{\"events\":\u{c}[{}]}",
    ] {
        assert!(one_pass::read(other).is_none(), "{other}");
    }
}

#[test]
fn a_batch_has_one_to_a_thousand_items() {
    let of = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    for (count, allowed) in [(0, false), (1, true), (1000, true), (1001, false), (5000, false)] {
        let (object, list) = (format!(r#"{{"events": {}}}"#, of(count)), of(count));
        assert_eq!(events(object.as_bytes()).is_ok(), allowed, "{count} in an object");
        assert_eq!(array(list.as_bytes()).is_ok(), allowed, "{count} in an array");
        assert_eq!(wrong_count(count).is_none(), allowed, "{count}");
    }
    assert_eq!(refused(r#"{"events": []}"#), "events must have at least one event");
}

#[test]
fn another_form_is_an_error_that_says_what_is_wrong() {
    for (body, expected) in [
        ("{}", "events is required"),
        (r#"{"event": [1]}"#, "event is not a member of a batch; events is required"),
        (r#"{"events": [1], "idempotency_key": "x"}"#, "idempotency_key is not a member of a batch"),
        (r#"{"events": [1], "events": [1]}"#, "the key \"events\" is duplicated"),
        (r#"{"events": 1}"#, "there must be a JSON array of events"),
        (r#"{"events": null}"#, "there must be a JSON array of events"),
        ("[1]", "there must be a JSON object with the member events"),
        ("", "EOF"),
        (r#"{"events": [1]} x"#, "trailing characters"),
        (r#"{"events": [1"#, "EOF"),
        ("\u{feff}{}", "byte-order mark"),
    ] {
        assert!(refused(body).contains(expected), "{body}: {}", refused(body));
    }
    let name = "x".repeat(100_000);
    assert!(refused(&format!(r#"{{"{name}": 1}}"#)).len() < 200, "a long name is shortened");
}

/// All lines of `text`, which arrives in pieces of `step` bytes.
fn lines(text: &[u8], step: usize, max_bytes: usize) -> Vec<Option<Vec<u8>>> {
    let owned = |line: Line<'_>| match line {
        Line::Text(text) => Some(text.into_owned()),
        Line::TooLong => None,
    };
    let (mut lines, mut all) = (Lines::new(max_bytes), Vec::new());
    for mut piece in text.chunks(step) {
        while let Some(line) = lines.next(&mut piece) {
            all.push(owned(line));
        }
        assert!(piece.is_empty());
    }
    all.extend(lines.finish().map(owned));
    all
}

#[test]
fn lines_do_not_depend_on_the_pieces_they_arrive_in() {
    let text = b"one\n\n  \r\ntwo three\r\nmuch too long\n four\n";
    let text_of = |line: &str| Some(line.as_bytes().to_vec());
    for step in 1..=text.len() {
        let expected = [text_of("one"), text_of("two three\r"), None, text_of(" four")];
        assert_eq!(lines(text, step, 10), expected, "pieces of {step}");
    }
    assert_eq!(lines(b"last", 2, 4), [text_of("last")]);
    assert_eq!(lines(b"\n \n", 1, 4), Vec::<Option<Vec<u8>>>::new());
}

proptest! {
    #[test]
    fn lines_are_those_of_a_split(text in "[ab \n]{0,60}", step in 1_usize..20, max_bytes in 0_usize..8) {
        let split = text.split('\n').filter(|line| line.len() > max_bytes || !line.trim().is_empty());
        let expected: Vec<_> =
            split.map(|line| (line.len() <= max_bytes).then(|| line.as_bytes().to_vec())).collect();
        prop_assert_eq!(lines(text.as_bytes(), step, max_bytes), expected);
    }

    #[test]
    fn one_pass_finds_what_two_passes_find(
        items in prop::collection::vec(
            prop::sample::select(vec![
                r#"{"event_type": "a", "payload": {"n": [1, "]", "}"]}}"#,
                r#"{"type":"a","data":null,"dedup_id":"x"}"#,
                r#"{"event_type": "a", "event_type": "b", "payload": 1}"#,
                r#"{"\u0074ype": "a", "payload": "\ud800"}"#,
                r#"{"payload": "\"{", "other": [[[]]], "metadata": {"k": "v"}}"#,
                "{ }",
                "null",
            ]),
            1..5,
        ),
        at in any::<prop::sample::Index>(),
        odd in prop::option::of(
            prop::sample::select(vec![" ", "\n", "\u{c}", ",", "]", "}", "{", "\"", "\\", "1", "x"]),
        ),
    ) {
        let mut body = format!("{{\"events\": [{}]}}", items.join(" , "));
        if let Some(odd) = odd {
            body.insert_str(at.index(body.len()), odd);
        }
        if let Some(read) = one_pass::read(&body) {
            prop_assert_eq!(texts(&read), texts_of_events(&body).unwrap());
            for item in read {
                let text = item.text();
                prop_assert_eq!(item.parse(), event_json::parse(text.as_bytes()), "{}", text);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_batch_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        drop(events(&bytes));
        drop(array(&bytes));
    }
}
