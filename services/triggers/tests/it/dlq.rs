//! Dead letters: an operator lists, shows and redrives them; a tenant sees its own.

use std::time::Duration;

use devstack::testing::{eventually, read_topic};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use runtime::seal::SealingKey;
use schemas::codec::encode_event;
use schemas::ids::{EventId, OrgId};
use schemas::position::{RecordPosition, TOKEN_PURPOSE};
use schemas::records::Event;
use schemas::topics;
use serde_json::{Value, json};
use testkit::receiver::{Received, Receiver, ReceiverBehavior};
use testkit::records;

use crate::api::Api;
use crate::log::{Writer, header};
use crate::process::Process;
use crate::system::System;

/// A busy machine shares its processors among many tests.
const PATIENCE: Duration = Duration::from_secs(20);

async fn wait_for_dead_letters(system: &System, count: usize) {
    let what = format!("there are {count} dead letters");
    eventually(PATIENCE, &what, || async {
        let letters = read_topic(&system.brokers, &system.topic(topics::DEAD_LETTERS)).await;
        (letters.len() >= count).then_some(())
    })
    .await;
}

fn position(topic: &str, (partition, offset): (i32, i64)) -> String {
    format!("{topic}/{partition}/{offset}")
}

/// Creates an organization that only records have named so far, and a key for it.
async fn create_organization(system: &System, api: &Api, id: &str) -> Api {
    let database = system.database().await;
    sqlx::query("INSERT INTO organizations (id, name, rate_limit_per_minute) VALUES ($1, 'Late', 0)")
        .bind(id.parse::<uuid::Uuid>().unwrap())
        .execute(&database)
        .await
        .unwrap();
    let key = system.run_as(api, &["key", "create", "boss", "--role", "manage", "--org", id]).await.expect(0).json();
    Api::new(&api.base_url, key[0]["key"].as_str().unwrap()).await
}

fn dispatcher(system: &System) -> Process {
    system.role("dispatcher", &[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "1")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_redriven_twice_is_one_event_and_one_webhook() {
    let system = System::shared().await;
    let allow = [("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_ALLOW_HTTP", "1")];
    let (_ingest, _materializer, api) = system.inbox_roles(&allow).await;
    let dispatcher = dispatcher(&system);
    dispatcher.ready().await;
    let (writer, topic) = (Writer::new(&system.brokers), system.topic(topics::EVENTS));
    let receiver = Receiver::start(ReceiverBehavior::Status(204)).await;

    // Three records of an organization that does not exist yet.
    let late = uuid::Uuid::new_v4().to_string();
    let event = |event_type: &str| json!({"event_type": event_type, "payload": 1}).to_string().into_bytes();
    let first = writer.write(&topic, None, &late, &event("first"), &[("x-mine", "kept")]).await;
    writer.write(&topic, None, &late, &event("other"), &[]).await;
    let mut avro =
        Event { event_type: "avro".to_owned(), payload: "1".to_owned(), ..records::event(late.parse().unwrap()) };
    writer.write(&topic, None, &late, &encode_event(&avro).unwrap(), &[]).await;
    wait_for_dead_letters(&system, 3).await;
    let listed = system.run(&["dlq", "list", "--org", &late, "--class", "unknown_organization"]).await.expect(0).json();
    assert_eq!(listed.len(), 3);
    let mistyped = system.run(&["dlq", "list", "--org", &late, "--class", "unknown-organization"]).await.expect(0);
    assert_eq!(mistyped.output, "");
    assert!(mistyped.log.contains("there are: unknown_organization"), "{}", mistyped.log);
    let first = position(&topic, first);
    assert!(
        listed.iter().any(|letter| letter["position"] == first.as_str() && letter["organization"] == late.as_str()),
        "{listed:?}"
    );

    let tenant = create_organization(&system, &api, &late).await;
    tenant.post("/v1/endpoints", &json!({"url": receiver.url()})).await.expect(201);
    for _ in 0..2 {
        let done = system.run(&["dlq", "redrive", &first]).await.expect(0);
        assert_eq!(done.output, "1 redriven\n");
    }
    system.run(&["dlq", "redrive", "--org", &late]).await.expect(1);
    let done =
        system.run(&["dlq", "redrive", "--org", &late, "--class", "unknown_organization", "--yes"]).await.expect(0);
    assert_eq!(done.output, "3 redriven\n");
    // A native producer sends its own event id twice.
    avro.event_id = EventId::generate();
    for _ in 0..2 {
        writer.write(&topic, None, &late, &encode_event(&avro).unwrap(), &[]).await;
    }
    // The last record in the organization's partition.
    let last = tenant.accept("last", &json!(1)).await;

    tenant.shown(&last, PATIENCE).await;
    let inbox = tenant.inbox(50).await;
    let types: Vec<&Value> = inbox.iter().map(|event| &event["event_type"]).collect();
    assert_eq!(types, ["first", "other", "avro", "avro", "last"]);
    let shown = system.run(&["dlq", "show", &first]).await.expect(0).json().remove(0);
    let value = |name: &str| {
        shown["headers"].as_array().unwrap().iter().find(|h| h["name"] == name).unwrap()["value"]["text"].clone()
    };
    let number = |name: &str| value(name).as_str().unwrap().parse::<i64>().unwrap();
    let partition = i32::try_from(number("triggers-dlq-partition")).unwrap();
    let first_id = EventId::derived_from_position(
        &topic,
        partition,
        number("triggers-dlq-offset"),
        number("triggers-dlq-timestamp"),
    );
    assert_eq!(inbox[0]["event_id"], first_id.to_string());
    assert_eq!(value("x-mine"), "kept");

    let received = receiver.wait_for(5).await;
    // When the dispatcher has applied every record, no webhook can follow.
    eventually(PATIENCE, "the dispatcher is done", || async {
        let lag = system.run(&["lag"]).await.expect(0).json();
        let done = lag.iter().filter(|line| line["topic"] == topic.as_str()).all(|line| line["lag_records"] == 0);
        let database = system.database().await;
        let open = "SELECT (SELECT count(*) FROM delivery_schedule) + (SELECT count(*) FROM deliveries_awaiting_dedup)";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&database).await.unwrap();
        (done && open == 0).then_some(())
    })
    .await;
    assert_eq!(receiver.received().len(), 5, "there is no sixth webhook");
    let mut received: Vec<String> = received.iter().map(Received::id).collect();
    received.sort();
    let mut expected = crate::api::ids(&inbox);
    expected.sort();
    assert_eq!(received, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_record_stays_one_dead_letter() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let (writer, topic) = (Writer::new(&system.brokers), system.topic(topics::EVENTS));
    let late = uuid::Uuid::new_v4().to_string();
    let garbage = b"garbage\xff\x00";
    let first = position(&topic, writer.write(&topic, None, &late, garbage, &[]).await);
    // An invalid origin is replaced by the position of the record.
    let event = br#"{"event_type": "repaired", "payload": 1}"#;
    let bad_origin =
        position(&topic, writer.write(&topic, None, &api.org_id, event, &[("triggers-origin-offset", "7")]).await);
    wait_for_dead_letters(&system, 2).await;
    let tenant = create_organization(&system, &api, &late).await;
    for _ in 0..2 {
        system.run(&["dlq", "redrive", &first]).await.expect(0);
    }
    wait_for_dead_letters(&system, 4).await;

    let listed = system.run(&["dlq", "list", "--output", "json"]).await.expect(0).json();
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert_eq!((&listed[0]["position"], &listed[0]["count"]), (&json!(first), &json!(3)));
    assert_eq!((&listed[1]["position"], &listed[1]["class"]), (&json!(bad_origin), &json!("bad_origin")));
    let only = |args: &'static [&'static str]| {
        let system = &system;
        async move { system.run(&[&["dlq", "list"][..], args].concat()).await.expect(0).json().len() }
    };
    assert_eq!((only(&["--limit", "1"]).await, only(&["--all"]).await), (1, 2));
    assert_eq!(
        (only(&["--since", "2999-01-01T00:00:00Z"]).await, only(&["--until", "2999-01-01T00:00:00Z"]).await),
        (0, 2)
    );
    assert_eq!((only(&["--topic", topics::EVENTS]).await, only(&["--topic", topics::ACKS]).await), (2, 0));
    let table = system.run(&["dlq", "list", "--output", "table"]).await.expect(0).output;
    assert!(table.starts_with("POSITION") && table.lines().count() == 3, "{table}");

    let shown = system.run(&["dlq", "show", &first]).await.expect(0).json().remove(0);
    assert_eq!(shown["value"], json!({"hex": "67617262616765ff00"}));
    assert_ne!(shown["rejected_at"], json!(first), "the shown reason is that of the newest dead letter");
    let mut command = system.command();
    let raw = command.args(["dlq", "show", "--raw", &first]).output().await.unwrap();
    assert_eq!(raw.stdout, garbage);

    // The tenant sees the two dead letters that were written after it was created, but not the first.
    let page = tenant.get("/v1/rejected").await.expect(200).json();
    let rejected = page["rejected"].as_array().unwrap();
    assert_eq!((rejected.len(), &page["has_more"]), (2, &json!(false)), "{page}");
    assert!(
        rejected
            .iter()
            .all(|row| row["error_code"] == "malformed" && row["topic"] == topic && row["position"].is_string())
    );
    let sealing = SealingKey::load(&system.folder().join("sealing.key")).unwrap();
    let org: OrgId = tenant.org_id.parse().unwrap();
    let token = rejected[0]["position"].as_str().unwrap();
    let position = sealing.open_stable_token(TOKEN_PURPOSE, org.as_uuid().as_bytes(), token).unwrap();
    assert_eq!(
        RecordPosition::from_bytes(&position).map(|position| position.offset),
        shown["rejected_at"].as_str().unwrap().rsplit('/').next().unwrap().parse().ok()
    );
    let page = api.get("/v1/rejected").await.expect(200).json();
    assert_eq!(page["rejected"][0]["error_code"], "bad_origin");

    system.run(&["dlq", "redrive", &bad_origin]).await.expect(0);
    eventually(PATIENCE, "the redriven event is in the inbox", || async {
        (api.inbox(50).await.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_too_large_record_is_redriven_from_the_log() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let (events, letters) = (system.topic(topics::EVENTS), system.topic(topics::DEAD_LETTERS));
    // Small when compressed, too large when decompressed.
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &system.brokers)
        .set("compression.type", "gzip")
        .set("message.max.bytes", "10000000");
    let compressing: FutureProducer = config.create().unwrap();
    let value = vec![b' '; 4_000_000];
    let record = FutureRecord::to(&events).partition(0).key(&api.org_id).payload(&value);
    let at = compressing.send(record, PATIENCE).await.unwrap();
    wait_for_dead_letters(&system, 1).await;
    let large = position(&events, (at.partition, at.offset));
    let shown = system.run(&["dlq", "show", &large]).await.expect(0).json().remove(0);
    assert_eq!((&shown["too_large"], &shown["bytes"]), (&json!(true), &Value::Null));
    assert_eq!(shown["value"]["text"].as_str().unwrap().len(), value.len(), "the value is read from its own topic");
    for count in 2..4 {
        system.run(&["dlq", "redrive", &large]).await.expect(0);
        wait_for_dead_letters(&system, count).await;
    }
    let listed = system.run(&["dlq", "list"]).await.expect(0).json();
    assert_eq!(
        (listed.len(), &listed[0]["position"], &listed[0]["count"]),
        (1, &json!(large), &json!(3)),
        "{listed:?}"
    );

    // A dead letter whose record is no longer on its topic.
    let expired_headers = [
        ("triggers-dlq-topic", events.as_str()),
        ("triggers-dlq-partition", "0"),
        ("triggers-dlq-offset", "4000000"),
        ("triggers-dlq-timestamp", "1700000000000"),
        ("triggers-dlq-error-class", "value_too_large"),
    ];
    let headers = expired_headers
        .iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
    compressing.send(FutureRecord::<(), ()>::to(&letters).headers(headers), PATIENCE).await.unwrap();
    let expired = position(&events, (0, 4_000_000));
    let refused = system.run(&["dlq", "redrive", &expired]).await.expect(1);
    assert!(refused.output == "0 redriven\n" && refused.log.contains("too large"), "{}", refused.log);
    system.run(&["dlq", "show", "--raw", &expired]).await.expect(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redrive_needs_a_selection_and_reports_its_progress() {
    let system = System::shared().await;
    let materializer = system.role("materializer", &[]);
    materializer.ready().await;
    let (writer, topic) = (Writer::new(&system.brokers), system.topic(topics::EVENTS));
    let stranger = uuid::Uuid::new_v4().to_string();
    let mut positions = Vec::new();
    for bytes in [10, 5_000, 10] {
        let value = format!(r#"{{"event_type": "a", "payload": "{}"}}"#, "x".repeat(bytes));
        positions.push(position(&topic, writer.write(&topic, None, &stranger, value.as_bytes(), &[]).await));
    }
    wait_for_dead_letters(&system, 3).await;

    for wrong in [
        &["dlq", "redrive"][..],
        &["dlq", "redrive", "no-position"],
        &["dlq", "list", "--since", "yesterday"],
        &["dlq", "show"],
    ] {
        system.run(wrong).await.expect(2);
    }
    let nowhere = position(&topic, (0, 1_000_000));
    for failing in
        [&["dlq", "show", &nowhere][..], &["dlq", "redrive", &positions[0], &nowhere], &["dlq", "redrive", "--all"]]
    {
        let failed = system.run(failing).await.expect(1);
        assert!(
            failed.log.contains("no dead letter of") || failed.log.contains("3 dead letters match; add --yes"),
            "{}",
            failed.log
        );
    }
    let dry = system.run(&["dlq", "redrive", "--all", "--dry-run"]).await.expect(0);
    assert!(dry.json().len() == 3 && dry.log.contains("3 would be redriven"), "{}", dry.log);

    let failed = system.run(&["dlq", "redrive", "--all", "--yes", "--kafka", "message.max.bytes=1000"]).await.expect(1);
    assert_eq!(failed.output, "2 redriven\n");
    assert!(
        failed.log.contains("2 of 3 were redriven; to continue, repeat the command with --since 2"),
        "{}",
        failed.log
    );
    assert!(failed.log.contains(&positions[1]), "the error names the record: {}", failed.log);
    wait_for_dead_letters(&system, 5).await;
    let records = read_topic(&system.brokers, &topic).await;
    assert_eq!(records.len(), 5, "three records and two redriven ones");
    let again = &records[3];
    assert_eq!(header(again, "triggers-origin-offset").unwrap(), positions[0].rsplit('/').next().unwrap());
    assert!(header(again, "triggers-dlq-topic").is_none());
}
