//! Batches: a result per item, in order, each as a single request would have been answered.

use serde_json::{Value, json};

use crate::bench::{Answer, Bench, KEY, send};
use crate::forms::gzip;

pub(crate) const JSON: &str = "application/json";
pub(crate) const NDJSON: &str = "application/x-ndjson";
const CLOUDEVENTS: &str = "application/cloudevents-batch+json";
const BATCH_BYTES: usize = 4 * 1024 * 1024;

pub(crate) fn event(number: usize) -> Value {
    json!({"type": "a", "data": number})
}

fn cloudevent(id: &str) -> Value {
    json!({"specversion": "1.0", "type": "a", "source": "/shop", "id": id, "data": [1]})
}

pub(crate) fn object(events: &[Value]) -> String {
    json!({ "events": events }).to_string()
}

pub(crate) fn lines(events: &[Value]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

/// The statuses of the results, whose indexes must be 0, 1, 2 and so on.
pub(crate) fn statuses(answer: &Answer) -> Vec<u64> {
    let results = answer.body["results"].as_array().unwrap_or_else(|| panic!("no results in {answer:?}"));
    let with_index = |(index, result): (usize, &Value)| {
        assert_eq!(result["index"], index, "{answer:?}");
        result["status"].as_u64().unwrap()
    };
    results.iter().enumerate().map(with_index).collect()
}

/// `accepted`, `duplicates` and `rejected`.
pub(crate) fn counts(answer: &Answer) -> [u64; 3] {
    ["accepted", "duplicates", "rejected"].map(|name| answer.body[name].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_forms_answer_200_with_a_result_per_item_in_order() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let events = [event(0), event(1), event(2)];
    let clouds = |prefix: &str| Value::from_iter((0..3).map(|n| cloudevent(&format!("{prefix}{n}")))).to_string();
    let requests = [
        ("/v1/events/batch", JSON, object(&events), 201),
        ("/events/batch", "Application/JSON; charset=utf-8", object(&events), 201),
        ("/api/events/batch", JSON, object(&events), 202),
        ("/v1/events/batch", NDJSON, lines(&events), 201),
        ("/api/events/batch", NDJSON, lines(&events), 202),
        ("/v1/events/batch", CLOUDEVENTS, clouds("a"), 201),
        ("/v1/events", CLOUDEVENTS, clouds("b"), 201),
        ("/api/events", CLOUDEVENTS, clouds("c"), 202),
    ];
    let mut ids = Vec::new();
    for (path, content_type, body, status) in &requests {
        for body in [body.clone().into_bytes(), gzip(body)] {
            let is_gzip = body.starts_with(b"\x1f\x8b");
            if is_gzip && *content_type == CLOUDEVENTS {
                continue;
            }
            let request = instance.batch(path, content_type, body);
            let request = if is_gzip { request.header("content-encoding", "gzip") } else { request };
            let answer = send(request).await.expect(200);
            assert_eq!((statuses(&answer), counts(&answer)), (vec![*status; 3], [3, 0, 0]), "{path} {content_type}");
            for result in answer.body["results"].as_array().unwrap() {
                assert!(result["position"].is_string() && result.get("error_code").is_none(), "{result}");
                ids.push(result["event_id"].as_str().unwrap().to_owned());
            }
        }
    }
    let log = bench.log().await;
    let on_log: Vec<String> = log.iter().map(|record| record.event.event_id.to_string()).collect();
    assert_eq!(on_log, ids, "each result has the id of its own event, and the log has the order of the items");
    let headers = &log[0].headers;
    assert!(headers.contains_key("triggers-key-id") && headers.contains_key("x-request-id"), "{headers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_item_is_answered_as_a_single_request_would_be() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let key = instance.key(json!({"role": "produce", "event_types": ["a"]})).await;
    let large = json!({"type": "a", "data": "x".repeat(256 * 1024)}).to_string();
    let huge = json!({"type": "a", "data": 1, "unknown": "x".repeat(512 * 1024)}).to_string();
    let items = [
        r#"{"type": "a", "data": 1, "dedup_id": "d"}"#,
        r#"{"type": "", "data": 1}"#,
        r#"{"type": "a", "data": 1, "dedup_id": "d"}"#,
        "7",
        r#"{"type": "b", "data": 1}"#,
        &large,
        &huge,
        r#"{"type": "a", "data": "\ud800"}"#,
        r#"{"type": "a", "data": 2}"#,
    ];
    for (mount, ok, invalid) in [("/v1", 201, 400), ("/api", 202, 422)] {
        let first = if mount == "/v1" { ok } else { 409 };
        let expected = [first, invalid, 409, invalid, 403, 413, 413, invalid, ok];
        for (content_type, body) in
            [(JSON, format!(r#"{{"events": [{}]}}"#, items.join(","))), (NDJSON, items.join("\n"))]
        {
            let path = format!("{mount}/events/batch");
            let answer = send(instance.batch_as(&key, &path, content_type, body)).await.expect(207);
            let expected =
                if content_type == NDJSON { [[409].as_slice(), &expected[1..]].concat() } else { expected.to_vec() };
            assert_eq!(statuses(&answer), expected, "{path} {content_type}");
            let duplicates = expected.iter().filter(|status| **status == 409).count() as u64;
            assert_eq!(counts(&answer), [3 - duplicates, duplicates, 6]);
            // The same texts as in the answers to single requests.
            for (index, item) in items.iter().enumerate().filter(|(index, _)| ![0, 8].contains(index)) {
                let single = instance.batch_as(&key, &format!("{mount}/events"), JSON, (*item).to_owned());
                let single = send(single).await;
                let result = &answer.body["results"][index];
                assert_eq!(result["status"], single.status.as_u16(), "{item:.80}");
                for field in ["error_code", "event_id", "details"] {
                    assert_eq!(result.get(field), single.body.get(field), "{field} of {item:.80}");
                }
                assert!(index == 6 || result["message"] == single.body["message"], "{result} {single:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_inside_and_across_batches_have_the_first_id() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let with_id = |id: &str, data: u32| json!({"type": "a", "data": data, "dedup_id": id});
    let items = [with_id("x", 1), with_id("x", 2), event(0), with_id("y", 1), with_id("x", 1), with_id("y", 9)];
    let answer = send(instance.batch("/v1/events/batch", JSON, object(&items))).await.expect(207);
    assert_eq!((statuses(&answer), counts(&answer)), (vec![201, 409, 201, 201, 409, 409], [3, 3, 0]));
    let result = |index: usize| &answer.body["results"][index];
    assert_eq!([1, 4].map(|index| &result(index)["event_id"]), [&result(0)["event_id"]; 2]);
    assert_eq!(result(5)["event_id"], result(3)["event_id"]);
    assert_eq!(result(1)["error_code"], "duplicate_event");

    let again = send(instance.batch("/v1/events/batch", NDJSON, lines(&items[..1]))).await.expect(207);
    assert_eq!((statuses(&again), &again.body["results"][0]["event_id"]), (vec![409], &result(0)["event_id"]));
    let single = instance.accept(&with_id("y", 1)).await.expect(409);
    assert_eq!(single.body["event_id"], result(3)["event_id"]);

    let pair = json!([cloudevent("1"), cloudevent("1"), cloudevent("2")]).to_string();
    let clouds = send(instance.batch("/v1/events", CLOUDEVENTS, pair)).await.expect(207);
    assert_eq!(statuses(&clouds), [201, 409, 201], "source and id are the dedup key");
    assert_eq!(bench.log().await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_content_in_a_batch_is_a_duplicate_with_content_dedup() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let key = instance.key(json!({"role": "produce", "content_dedup": true})).await;
    let body = object(&[event(1), event(1), event(2)]);
    let answer = send(instance.batch_as(&key, "/v1/events/batch", JSON, body)).await.expect(207);
    assert_eq!((statuses(&answer), counts(&answer)), (vec![201, 200, 201], [2, 1, 0]));
    let [first, second] = [0, 1].map(|index| &answer.body["results"][index]);
    assert_eq!((&second["event_id"], &second["duplicate"]), (&first["event_id"], &json!(true)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_items_are_appended_in_their_order() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    // Some have a dedup key, whose lookup takes longer than no lookup.
    let item = |n: usize| match n % 3 {
        0 => json!({"type": "a", "data": n, "dedup_id": n.to_string()}),
        _ => event(n),
    };
    let items: Vec<Value> = (0..1000).map(item).collect();
    let answer = send(instance.batch("/v1/events/batch", JSON, object(&items))).await.expect(200);
    assert_eq!(counts(&answer), [1000, 0, 0]);
    let log = bench.log().await;
    let payloads: Vec<String> = log.iter().map(|record| record.event.payload.clone()).collect();
    assert_eq!(payloads, (0..1000).map(|n| n.to_string()).collect::<Vec<_>>());
    let ids: Vec<Value> = log.iter().map(|record| record.event.event_id.to_string().into()).collect();
    let answered: Vec<Value> = (0..1000).map(|n| answer.body["results"][n]["event_id"].clone()).collect();
    assert_eq!(answered, ids);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_number_of_events_is_one_problem() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let too_many: Vec<Value> = (0..1001).map(event).collect();
    let cases = [
        ("/v1/events/batch", JSON, object(&too_many)),
        ("/v1/events/batch", JSON, object(&[])),
        ("/v1/events/batch", NDJSON, String::new()),
        ("/v1/events/batch", NDJSON, "\n \r\n\n".to_owned()),
        ("/v1/events/batch", CLOUDEVENTS, "[]".to_owned()),
        ("/v1/events", CLOUDEVENTS, Value::from(too_many.clone()).to_string()),
    ];
    for (path, content_type, body) in cases {
        for (path, status) in [(path.to_owned(), 400), (path.replace("/v1", "/api"), 422)] {
            let answer = send(instance.batch(&path, content_type, body.clone())).await.expect(status);
            assert_eq!(answer.text("error_code"), "invalid_request", "{path} {content_type}");
            assert_eq!(answer.body["details"][0]["field"], "events");
        }
    }
    assert_eq!(bench.log().await.len(), 0);

    // Lines are accepted as they arrive, so the thousand before were.
    let answer = send(instance.batch("/v1/events/batch", NDJSON, lines(&too_many))).await.expect(400);
    assert_eq!((answer.text("error_code").as_str(), counts(&answer)), ("invalid_request", [1000, 0, 0]));
    assert!(answer.text("detail").contains("1000 of the 1000 events"), "{}", answer.text("detail"));
    assert_eq!(bench.log().await.len(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_framing_is_one_problem_and_nothing_is_accepted() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    for (content_type, body, code, said) in [
        (JSON, "", "invalid_json", "line 1"),
        (JSON, "[]", "invalid_json", "member events"),
        (JSON, r#"{"events": 7}"#, "invalid_json", "array"),
        (JSON, r#"{"events": [{"type": "a", "data": 1}"#, "invalid_json", "line 1"),
        (JSON, r#"{"event": [1]}"#, "invalid_request", "event is not a member"),
        (JSON, r#"{"events": [1], "events": [1]}"#, "invalid_json", "duplicated"),
        (JSON, "\u{feff}{\"events\": []}", "invalid_json", "byte-order mark"),
        (CLOUDEVENTS, "{}", "invalid_json", "array"),
        (CLOUDEVENTS, "[1] x", "invalid_json", "trailing"),
    ] {
        let answer = send(instance.batch("/v1/events/batch", content_type, body)).await.expect(400);
        assert_eq!(answer.text("error_code"), code, "{body}");
        assert!(answer.text("detail").contains(said), "{body}: {}", answer.text("detail"));
        assert!(answer.body.get("results").is_none());
    }
    let body = object(&[event(1)]);
    for content_type in ["text/plain", "application/cloudevents+json", "application/ndjson", ""] {
        send(instance.batch("/v1/events/batch", content_type, body.clone())).await.expect(415);
    }
    send(instance.batch("/v1/events", NDJSON, lines(&[event(1)]))).await.expect(415);
    send(instance.batch("/v1/events/batch", JSON, body.clone()).header("content-encoding", "br")).await.expect(415);
    let invalid = instance.batch("/v1/events/batch", JSON, "no gzip").header("content-encoding", "gzip");
    assert_eq!(send(invalid).await.expect(400).text("error_code"), "invalid_encoding");
    for content_type in [JSON, NDJSON, CLOUDEVENTS] {
        let with_key = instance.batch("/api/events/batch", content_type, body.clone()).header("idempotency-key", "k");
        let answer = send(with_key).await.expect(422);
        assert_eq!(answer.body["details"][0]["field"], "Idempotency-Key");
    }
    assert_eq!(send(instance.post("/v1/events/batch").body(body.clone())).await.status, 401);
    let consume = instance.key(json!({"role": "consume"})).await;
    send(instance.post("/v1/events/batch").bearer_auth(consume).body(body.clone())).await.expect(403);
    assert_eq!(bench.log().await.len(), 0);
    send(instance.post("/v1/events/batch").bearer_auth(KEY).body(body)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_has_at_most_four_mebibytes() {
    let bench = Bench::start().await;
    let instance = bench.instance().await;
    let padded = |text: String, bytes: usize| {
        let blanks = bytes - text.len();
        text + &" ".repeat(blanks)
    };
    for (content_type, text) in [(JSON, object(&[event(1)])), (CLOUDEVENTS, json!([cloudevent("1")]).to_string())] {
        let exact = padded(text.clone(), BATCH_BYTES);
        send(instance.batch("/v1/events/batch", content_type, exact)).await.expect(200);
        let more = padded(text, BATCH_BYTES + 1);
        let answer = send(instance.batch("/v1/events/batch", content_type, more.clone())).await.expect(413);
        assert_eq!(answer.text("error_code"), "payload_too_large");
        let unfolds = instance.batch("/v1/events/batch", content_type, gzip(&more)).header("content-encoding", "gzip");
        send(unfolds).await.expect(413);
    }
    let item = json!({"type": "a", "data": "x".repeat(200 * 1024)}).to_string();
    let exact = format!("{item}\n").repeat(BATCH_BYTES / (item.len() + 1));
    let exact = format!("{exact}{}", "\n".repeat(BATCH_BYTES - exact.len()));
    let answer = send(instance.batch("/v1/events/batch", NDJSON, exact.clone())).await.expect(200);
    let fitting = answer.body["accepted"].as_u64().unwrap();
    assert_eq!(fitting, 20);
    let declared = send(instance.batch("/v1/events/batch", NDJSON, exact.clone() + "\n")).await.expect(413);
    assert!(declared.body.get("results").is_none(), "refused before it is read");
    let request = instance.batch("/v1/events/batch", NDJSON, gzip(&(exact + "\n")));
    let unfolds = send(request.header("content-encoding", "gzip")).await.expect(413);
    assert_eq!(unfolds.text("error_code"), "payload_too_large");
    assert_eq!(counts(&unfolds), [fitting, 0, 0], "what arrived before was accepted, and the answer says so");
    assert_eq!(bench.log().await.len() as u64, 2 + 2 * fitting);
}
