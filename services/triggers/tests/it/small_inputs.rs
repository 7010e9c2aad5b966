//! Small inputs that were answered wrongly once, each one case of a kind, against a real system.

use std::time::Duration;

use devstack::testing::{eventually, read_topic};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use rdkafka::producer::FutureRecord;
use rdkafka::{ClientConfig, Message as _};
use schemas::{headers, topics};
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::api::Api;
use crate::budgets::{gzip_of, half_sent, resident, status};
use crate::deliveries::now_ms;
use crate::log::{Writer, header};
use crate::process::Process;
use crate::system::System;

/// A busy machine shares its processors among many tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// Receivers of webhooks are on this machine.
const LOCAL_WEBHOOKS: [(&str, &str); 2] = [("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "1")];
const CLOUDEVENT: &str = "application/cloudevents+json";
/// "hello" in base64.
const BASE64: &str = "aGVsbG8=";

async fn inbox_of(api: &Api, count: usize) -> Vec<Value> {
    eventually(PATIENCE, &format!("{count} events are in the inbox"), || async {
        let inbox = api.inbox(50).await;
        (inbox.len() >= count).then_some(inbox)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn base64_data_is_marked_everywhere() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&LOCAL_WEBHOOKS).await;
    let dispatcher = system.role("dispatcher", &LOCAL_WEBHOOKS);
    dispatcher.ready().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(204)).await;
    api.post("/v1/endpoints", &json!({"url": receiver.url()})).await.expect(201);

    let event = |id: &str, data: (&str, &str)| {
        json!({"specversion": "1.0", "type": "c", "source": "/s", "id": id, "datacontenttype": "text/plain",
               data.0: data.1})
        .to_string()
    };
    for (id, data) in [("binary", ("data_base64", BASE64)), ("text", ("data", BASE64))] {
        api.post_text("/v1/events", CLOUDEVENT, &event(id, data)).await.expect(201);
    }
    let batch = format!("[{},{}]", event("binary-2", ("data_base64", BASE64)), event("text-2", ("data", BASE64)));
    api.post_text("/v1/events/batch", "application/cloudevents-batch+json", &batch).await.expect(200);

    let is_marked = |item: &Value, payload: &str| {
        assert_eq!(item[payload], BASE64, "the payload is the base64 text");
        item.get("payload_encoding").map(|encoding| encoding == "base64")
    };
    let marks = [Some(true), None, Some(true), None];
    let inbox = inbox_of(&api, 4).await;
    assert_eq!(inbox.iter().map(|item| is_marked(item, "payload")).collect::<Vec<_>>(), marks, "inbox");
    for item in &inbox {
        let single = api.get(&format!("/v1/events/{}", item["event_id"].as_str().unwrap())).await.expect(200).json();
        assert_eq!(single["payload_encoding"], item["payload_encoding"], "the event itself");
    }
    for webhook in receiver.wait_for(4).await {
        let body = webhook.json();
        let item = inbox.iter().find(|item| item["event_id"] == body["event_id"]).unwrap();
        assert_eq!(is_marked(&body, "data"), is_marked(item, "payload"), "webhook: {body}");
    }
    system.run(&["view", "rebuild"]).await.expect(0);
    let rebuilt = inbox_of(&api, 4).await;
    assert_eq!(rebuilt.iter().map(|item| is_marked(item, "payload")).collect::<Vec<_>>(), marks, "rebuilt view");
}

/// A record with or without a value, with these headers.
fn record<'a>(
    topic: &'a str,
    key: &'a str,
    value: Option<&'a [u8]>,
    headers: &[(&str, &str)],
) -> FutureRecord<'a, str, [u8]> {
    let add = |all: OwnedHeaders, (key, value): &(&str, &str)| all.insert(Header { key, value: Some(*value) });
    let record = FutureRecord::to(topic).key(key).headers(headers.iter().fold(OwnedHeaders::new(), add));
    match value {
        Some(value) => record.payload(value),
        None => record,
    }
}

async fn dead_letters(system: &System, count: usize) -> Vec<OwnedMessage> {
    eventually(PATIENCE, &format!("there are {count} dead letters"), || async {
        let letters = read_topic(&system.brokers, &system.topic(topics::DEAD_LETTERS)).await;
        (letters.len() >= count).then_some(letters)
    })
    .await
}

/// Lets producers choose the times of their records.
async fn use_create_time(system: &System, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &system.brokers).create().unwrap();
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic))
        .set("message.timestamp.type", "CreateTime")
        // Brokers refuse times that are more than an hour ahead; before Kafka 3.6 they did not.
        .set("message.timestamp.after.max.ms", "9223372036854775807");
    let changed = admin.alter_configs(&[change], &AdminOptions::new()).await.unwrap();
    assert!(changed.iter().all(Result::is_ok), "{changed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_native_records_have_a_class_of_their_own() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let (writer, topic, org) = (Writer::new(&system.brokers), system.topic(topics::EVENTS), api.org_id.as_str());
    let capitals = org.to_uppercase();
    assert_ne!(capitals, org, "an organization id has letters");
    let event = br#"{"event_type": "n", "payload": 1}"#;
    let cloud_event = [("ce_specversion", "1.0"), ("ce_type", "empty"), ("ce_source", "/s"), ("ce_id", "1")];
    writer.append(record(&topic, &capitals, Some(event), &[])).await;
    writer.append(record(&topic, org, None, &[])).await;
    writer.append(record(&topic, org, None, &cloud_event)).await;

    let letters = dead_letters(&system, 2).await;
    let class = |letter: &OwnedMessage| header(letter, headers::DLQ_ERROR_CLASS).unwrap().to_owned();
    let class_of_key = |key: &str| {
        let found: Vec<_> = letters.iter().filter(|letter| letter.key() == Some(key.as_bytes())).map(class).collect();
        found.join(" ")
    };
    assert_eq!(class_of_key(&capitals), "key_not_canonical", "it is on another partition, so out of order");
    assert_eq!(class_of_key(org), "null_value", "a record without a value is not malformed");
    let inbox = inbox_of(&api, 1).await;
    assert_eq!(inbox.len(), 1, "neither dead letter is an event: {inbox:?}");
    assert_eq!((&inbox[0]["event_type"], &inbox[0]["payload"]), (&json!("empty"), &Value::Null));
    let rejected = api.get("/v1/rejected").await.expect(200).json();
    let codes: Vec<&Value> = rejected["rejected"].as_array().unwrap().iter().map(|row| &row["error_code"]).collect();
    assert!(codes.contains(&&json!("null_value")), "its organization sees it too: {rejected}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_from_the_future_is_a_dead_letter() {
    const DAY_MS: i64 = 86_400_000;
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let (writer, topic, org) = (Writer::new(&system.brokers), system.topic(topics::EVENTS), api.org_id.as_str());
    use_create_time(&system, &topic).await;
    let event = br#"{"event_type": "n", "payload": 1}"#;
    let future = now_ms() + 2 * DAY_MS;
    // A broker applies the change after a moment: a record before that gets the broker's time and is an event.
    let letters = eventually(PATIENCE, "the time that the producer chose is on the log", || async {
        writer.append(record(&topic, org, Some(event), &[]).timestamp(future)).await;
        let letters = read_topic(&system.brokers, &system.topic(topics::DEAD_LETTERS)).await;
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    assert_eq!(header(&letters[0], headers::DLQ_ERROR_CLASS), Some("future_time"));
    assert_eq!(header(&letters[0], headers::DLQ_TIMESTAMP), Some(future.to_string().as_str()));
    let id = api.accept("after", &json!(1)).await;
    let shown = api.shown(&id, PATIENCE).await;
    assert_eq!(shown["event_type"], "after", "the partition goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_get_the_invalid_code() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&LOCAL_WEBHOOKS).await;
    for (path, status) in [("/v1/inbox", 400), ("/inbox", 400), ("/api/inbox", 422)] {
        let reply = api.get(&format!("{path}?event_type[]=order.created")).await.expect(status).json();
        assert_eq!(reply["details"][0]["field"], "event_type[]", "{reply}");
        assert!(reply["details"][0]["reason"].as_str().unwrap().contains("event_type"), "{reply}");
        let encoded = api.get(&format!("{path}?event_type%5B%5D=order.created")).await.expect(status).json();
        assert_eq!(encoded["details"], reply["details"]);
    }
    let signal = json!({"url": {"$serde_json::private::RawValue": "\"http://127.0.0.1:9/\""}});
    let reply = api.post("/v1/endpoints", &signal).await.expect(400).json();
    let field = reply["details"][0]["field"].as_str().unwrap();
    assert!(field.starts_with("url"), "a library's private signal is data like any other: {reply}");

    let made = json!({"url": "http://127.0.0.1:9/", "timeout_seconds": 7, "description": "mine"});
    let id = api.post("/v1/endpoints", &made).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/endpoints/{id}");
    let reply = api.patch(&path, &json!({"timeout_seconds": null})).await.expect(400).json();
    assert_eq!(reply["details"][0]["field"], "timeout_seconds", "{reply}");
    assert_eq!(api.get(&path).await.expect(200).json()["timeout_seconds"], 7, "it is not reset");
    let reply = api.patch(&path, &json!({"description": null})).await.expect(200).json();
    assert_eq!((&reply["description"], &reply["timeout_seconds"]), (&Value::Null, &json!(7)), "this one may be empty");
}

/// Sends the head and a part of a gzip body 1,000 times; returns how much the resident memory grew, bytes.
async fn growth_of_half_sent(api: &Api, ingest: &Process, part: &[u8]) -> u64 {
    const HEAD: &str =
        "POST /v1/keys/generate HTTP/1.1\r\ncontent-encoding: gzip\r\ncontent-type: application/json\r\n";
    let before = resident(ingest);
    let open = half_sent(api, 1_000, HEAD, part).await;
    for stream in &open {
        let answered = eventually(PATIENCE, "each is refused before its body has arrived", || async { status(stream) });
        assert_eq!(answered.await, 403, "sign-up is off");
    }
    resident(ingest).saturating_sub(before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_sent_gzip_bomb_without_a_key_is_not_read() {
    const MOST_GROWTH: u64 = 32 * 1024 * 1024;
    let system = System::shared().await;
    let (ingest, _materializer, api) = system.inbox_roles(&[("MAX_CONNECTIONS_PER_ADDRESS", "20000")]).await;
    let bomb = gzip_of(511 * 1024);
    assert!(bomb.len() < 1_000, "{} bytes", bomb.len());
    let growth = growth_of_half_sent(&api, &ingest, &bomb).await;
    eprintln!("the process grew by {} KiB", growth / 1024);
    assert!(growth < MOST_GROWTH, "{} KiB for 1,000 half-sent bodies that unfold to 511 MiB", growth / 1024);
}
