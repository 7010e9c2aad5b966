//! Native producers: records that are written to Kafka directly are handled like those of the HTTP API.

use std::time::Duration;

use devstack::testing::{eventually, read_topic};
use rdkafka::message::Message as _;
use schemas::{headers, topics};
use serde_json::{Value, json};

use crate::log::{Writer, header};
use crate::system::System;

/// A busy machine shares its processors among many tests.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_json_events_and_acks_reach_the_inbox() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let (writer, topic, org) = (Writer::new(&system.brokers), system.topic(topics::EVENTS), api.org_id.as_str());

    let plain = br#"{"event_type": "plain", "payload": {"n": 1.50, "text": "\u00e9"}}"#;
    writer.write(&topic, None, org, plain, &[]).await;
    let binary = [
        ("ce_specversion", "1.0"),
        ("ce_type", "binary"),
        ("ce_source", "/shop"),
        ("ce_id", "b-1"),
        ("content-type", "application/json"),
    ];
    writer.write(&topic, None, org, br#"{"n": 2}"#, &binary).await;
    let structured =
        json!({"specversion": "1.0", "type": "structured", "source": "/shop", "id": "s-1", "data": {"n": 3}})
            .to_string();
    let cloud_event = [("content-type", headers::CONTENT_TYPE_CLOUDEVENT)];
    writer.write(&topic, None, org, structured.as_bytes(), &cloud_event).await;

    let inbox = eventually(PATIENCE, "three events are in the inbox", || async {
        let inbox = api.inbox(50).await;
        (inbox.len() >= 3).then_some(inbox)
    })
    .await;
    let seen: Vec<(&Value, &Value)> = inbox.iter().map(|event| (&event["event_type"], &event["payload"])).collect();
    assert_eq!(
        seen,
        [
            (&json!("plain"), &json!({"n": 1.50, "text": "\u{e9}"})),
            (&json!("binary"), &json!({"n": 2})),
            (&json!("structured"), &json!({"n": 3})),
        ]
    );
    assert_eq!((&inbox[1]["source"], &inbox[2]["source"]), (&json!("/shop"), &json!("/shop")));
    let text = api.get("/v1/inbox").await.text;
    assert!(text.contains(r#"{"n": 1.50, "text": "\u00e9"}"#), "the payload is kept byte for byte: {text}");

    let id = inbox[1]["event_id"].as_str().unwrap();
    writer.write(&system.topic(topics::ACKS), None, org, json!({"event_id": id}).to_string().as_bytes(), &[]).await;
    let left = eventually(PATIENCE, "the acknowledged event leaves the inbox", || async {
        let inbox = api.inbox(50).await;
        (inbox.len() < 3).then_some(inbox)
    })
    .await;
    assert!(left.len() == 2 && left.iter().all(|event| event["event_id"] != id));
    assert!(api.get(&format!("/v1/events/{id}")).await.expect(200).json()["acknowledged_at"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_records_become_dead_letters_with_a_reason() {
    let system = System::shared().await;
    let (_ingest, _materializer, api) = system.inbox_roles(&[]).await;
    let (writer, topic) = (Writer::new(&system.brokers), system.topic(topics::EVENTS));

    let garbage = b"garbage\xff\x00";
    let (partition, offset) = writer.write(&topic, None, &api.org_id, garbage, &[("x-mine", "kept")]).await;
    let stranger = uuid::Uuid::new_v4().to_string();
    let unknown_org = br#"{"event_type": "unknown", "payload": 1}"#;
    writer.write(&topic, Some(partition), &stranger, unknown_org, &[]).await;
    writer.write(&topic, None, &api.org_id, br#"{"event_type": "good", "payload": 1}"#, &[]).await;

    let inbox = eventually(PATIENCE, "the good record is in the inbox", || async {
        let inbox = api.inbox(50).await;
        (!inbox.is_empty()).then_some(inbox)
    })
    .await;
    assert_eq!((inbox.len(), &inbox[0]["event_type"]), (1, &json!("good")));

    let letters = eventually(PATIENCE, "the two other records are dead letters", || async {
        let mut letters = read_topic(&system.brokers, &system.topic(topics::DEAD_LETTERS)).await;
        letters.sort_by_key(|letter| header(letter, headers::DLQ_OFFSET).map(str::to_owned));
        (letters.len() >= 2).then_some(letters)
    })
    .await;
    assert_eq!(letters.len(), 2, "one dead letter for each record");
    assert_eq!((letters[0].payload(), letters[0].key()), (Some(&garbage[..]), Some(api.org_id.as_bytes())));
    assert_eq!((letters[1].payload(), letters[1].key()), (Some(&unknown_org[..]), Some(stranger.as_bytes())));
    assert_eq!(header(&letters[0], "x-mine"), Some("kept"));
    for (letter, offset) in letters.iter().zip([offset, offset + 1]) {
        assert_eq!(header(letter, headers::DLQ_TOPIC), Some(topic.as_str()));
        assert_eq!(header(letter, headers::DLQ_PARTITION), Some(partition.to_string().as_str()));
        assert_eq!(header(letter, headers::DLQ_OFFSET), Some(offset.to_string().as_str()));
        assert_eq!(header(letter, headers::DLQ_GROUP), Some(system.topic(topics::GROUP_MATERIALIZER).as_str()));
        let class = header(letter, headers::DLQ_ERROR_CLASS).unwrap();
        assert!(!class.is_empty() && class.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{class}");
        assert!(!header(letter, headers::DLQ_ERROR_MESSAGE).unwrap().is_empty());
        for time in [headers::DLQ_TIMESTAMP, headers::DLQ_FIRST_SEEN] {
            assert!(header(letter, time).unwrap().parse::<i64>().unwrap() > 1_700_000_000_000);
        }
    }
    let classes: Vec<_> = letters.iter().map(|letter| header(letter, headers::DLQ_ERROR_CLASS)).collect();
    assert_ne!(classes[0], classes[1], "different reasons have different classes");
}
