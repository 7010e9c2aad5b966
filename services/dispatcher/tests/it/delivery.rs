//! First attempts from the log.

use std::time::{Duration, Instant};

use devstack::testing::eventually;
use reqwest::{Method, StatusCode};
use schemas::records::{DeliveryOutcome, Event};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use testkit::receiver::{Receiver, ReceiverBehavior};

use crate::system::{KEY, OTHER_KEY, PATIENCE, System};

#[tokio::test]
async fn an_event_reaches_its_endpoint_with_a_valid_signature() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(204)).await;
    let endpoint = system.endpoint(&receiver, json!({"event_types": ["order.*"], "headers": {"X-Token": "t"}})).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let event = Event {
        payload: "{\"b\": 1.0,\n \"a\": \"\\u00e9\", \"a\": 12345678901234567890}".to_owned(),
        traceparent: Some(trace.to_owned()),
        ..system.event("order.created")
    };
    system.publish(&system.event("invoice.paid")).await;
    let appended = system.publish(&event).await;

    let received = receiver.wait_for(1).await.remove(0);
    let verifier = Webhook::new(endpoint["secret"].as_str().unwrap()).unwrap();
    verifier.verify(&received.body, &received.headers).unwrap();
    let id = event.event_id.to_string();
    assert_eq!(received.header("webhook-id"), id);
    assert_eq!(received.header("x-token"), "t");
    assert_eq!(received.header("traceparent"), trace);
    assert_eq!(received.header("user-agent"), concat!("Triggers/", env!("CARGO_PKG_VERSION")));
    assert_eq!(received.header("content-type"), "application/json");
    let body = std::str::from_utf8(&received.body).unwrap();
    assert!(body.contains(&format!("\"data\":{},", event.payload)), "{body}");
    let json = received.json();
    assert_eq!((&json["event_id"], &json["id"]), (&Value::from(id.clone()), &Value::from(id)));
    assert_eq!((&json["type"], &json["event_type"]), (&Value::from("order.created"), &Value::from("order.created")));

    let report = system.wait_for_reports(event.event_id, 1).await.remove(0);
    assert_eq!((report.outcome, report.attempt, report.status_code), (DeliveryOutcome::Delivered, 1, Some(204)));
    assert_eq!(report.endpoint_id.to_string(), endpoint["id"]);
    // Loopback is listed by the operator: its responses are not stored.
    assert_eq!((report.error, report.response_excerpt, report.next_attempt_at), (None, None, None));
    system.wait_until_passed(&appended).await;
    assert_eq!(system.schedule().await, []);
    assert_eq!(receiver.received().len(), 1);
    let metrics = runtime::telemetry::metrics::render();
    for name in [
        "attempts_total{outcome=\"delivered\"}",
        "attempt_seconds_count",
        "first_attempt_seconds_count",
        "records_total{kind=\"matched\"}",
    ] {
        assert!(metrics.contains(&format!("triggers_dispatcher_{name} ")), "{name}");
    }
}

#[tokio::test]
async fn a_hanging_endpoint_delays_no_other() {
    let system = System::start().await;
    let (hanging, fine) =
        (Receiver::start(ReceiverBehavior::Hang).await, Receiver::start(ReceiverBehavior::Status(200)).await);
    system.endpoint(&hanging, json!({"timeout_seconds": 30, "max_in_flight": 2})).await;
    system.endpoint(&fine, json!({})).await;
    // The start of the dispatcher is not measured.
    system.publish_many(1).await;
    fine.wait_for(1).await;

    let started = Instant::now();
    let ids = system.publish_many(200).await;
    let last = system.publish(&system.event("last")).await;
    fine.wait_for_ids(&ids).await;
    system.wait_until_passed(&last).await;
    // The position does not wait either: hanging deliveries are in the schedule.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(hanging.received().len(), 2);
    let rows = system.schedule().await;
    assert_eq!(rows.len(), 202);
    assert_eq!(
        rows.iter().filter(|(state, attempts, leased)| state == "pending" && *attempts == 0 && *leased).count(),
        2
    );
    assert!(fine.counts().values().all(|count| *count == 1));
}

#[tokio::test]
async fn a_new_endpoint_gets_every_later_event() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    // The dispatcher has the earlier endpoints in its cache.
    system.endpoint(&receiver, json!({"url": receiver.url_of("first")})).await;
    system.publish_many(1).await;
    receiver.wait_for(1).await;
    for round in 0..20 {
        let path = format!("round-{round}");
        system.endpoint(&receiver, json!({"url": receiver.url_of(&path), "event_types": [path.clone()]})).await;
        let event = system.event(&path);
        let appended = system.publish(&event).await;
        system.wait_until_passed(&appended).await;
        let seen = receiver.received().iter().filter(|request| request.path == format!("/{path}")).count();
        assert_eq!(seen, 1, "{path}");
    }
}

#[tokio::test]
async fn a_restored_database_may_reuse_endpoint_versions() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    system.endpoint(&receiver, json!({"url": receiver.url_of("kept"), "event_types": ["kept"]})).await;
    let lost =
        system.endpoint(&receiver, json!({"url": receiver.url_of("lost"), "event_types": ["lost", "kept"]})).await;
    system.publish(&system.event("lost")).await;
    receiver.wait_for(1).await;

    // As in a backup from between the two.
    let lost: uuid::Uuid = lost["id"].as_str().unwrap().parse().unwrap();
    sqlx::query("DELETE FROM endpoints WHERE id = $1").bind(lost).execute(&system.pool).await.unwrap();
    sqlx::query("UPDATE endpoints_version SET version = version - 1").execute(&system.pool).await.unwrap();
    let claim_again = async || {
        let overtaken = system.overtake().await;
        eventually(PATIENCE, "the dispatcher claims its partitions again", || async {
            (system.epoch().await > overtaken).then_some(())
        })
        .await;
    };
    claim_again().await;
    let appended = system.publish(&system.event("kept")).await;
    system.wait_until_passed(&appended).await;
    let paths =
        |receiver: &Receiver| receiver.received().iter().map(|request| request.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&receiver), ["/lost", "/kept"]);
    // It gets the version of the lost endpoint.
    system.endpoint(&receiver, json!({"url": receiver.url_of("new"), "event_types": ["new"]})).await;
    let appended = system.publish(&system.event("new")).await;
    system.wait_until_passed(&appended).await;
    assert_eq!(paths(&receiver), ["/lost", "/kept", "/new"]);

    // A restored backup that reached the cached version before the cache compared it.
    sqlx::query("UPDATE endpoints SET event_types = '{other}' WHERE event_types = '{new}'")
        .execute(&system.pool)
        .await
        .unwrap();
    claim_again().await;
    let appended = system.publish(&system.event("other")).await;
    system.wait_until_passed(&appended).await;
    assert_eq!(paths(&receiver), ["/lost", "/kept", "/new", "/new"]);
}

#[tokio::test]
async fn a_backup_that_only_lacks_endpoints_is_noticed() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let lost = system.endpoint(&receiver, json!({"url": receiver.url_of("lost"), "event_types": ["lost"]})).await;
    system.publish(&system.event("lost")).await;
    receiver.wait_for(1).await;
    let lost: uuid::Uuid = lost["id"].as_str().unwrap().parse().unwrap();
    let epoch = system.epoch().await;
    sqlx::query("DELETE FROM endpoints WHERE id = $1").bind(lost).execute(&system.pool).await.unwrap();
    sqlx::query("UPDATE endpoints_version SET version = version - 1").execute(&system.pool).await.unwrap();
    eventually(PATIENCE, "nothing is sent to the lost endpoint any more", || async {
        let before = receiver.received().len();
        let appended = system.publish(&system.event("lost")).await;
        system.wait_until_passed(&appended).await;
        (receiver.received().len() == before).then_some(())
    })
    .await;
    assert_eq!(system.epoch().await, epoch, "no partition was claimed again");
    // It gets the version of the lost endpoint.
    system.endpoint(&receiver, json!({"url": receiver.url_of("new"), "event_types": ["new"]})).await;
    let appended = system.publish(&system.event("new")).await;
    system.wait_until_passed(&appended).await;
    assert_eq!(receiver.received().last().unwrap().path, "/new");
}

#[tokio::test]
async fn nothing_is_sent_to_a_deleted_or_disabled_endpoint() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    for (round, disable) in [(0, false), (1, true), (2, false), (3, true)] {
        let path = format!("round-{round}");
        let endpoint = system.endpoint(&receiver, json!({"url": receiver.url_of(&path)})).await;
        system.publish_many(1).await;
        receiver.wait_for(round + 1).await;
        if disable {
            system.change_endpoint(&endpoint["id"], json!({"enabled": false})).await;
        } else {
            let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap());
            assert_eq!(system.call(Method::DELETE, &path, KEY, None).await.status, StatusCode::NO_CONTENT);
        }
        let appended = system.publish(&system.event("after")).await;
        system.wait_until_passed(&appended).await;
        assert_eq!(receiver.received().len(), round + 1);
    }
    assert_eq!(system.schedule().await, []);
}

#[tokio::test]
async fn endpoints_get_only_events_of_their_organization() {
    let system = System::start().await;
    let (ours, theirs) =
        (Receiver::start(ReceiverBehavior::Status(200)).await, Receiver::start(ReceiverBehavior::Status(200)).await);
    system.endpoint(&ours, json!({})).await;
    let answer = system.call(Method::POST, "/endpoints", OTHER_KEY, Some(json!({"url": theirs.url()}))).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let org = system.org.to_string();
    for (key, value) in
        [(org.as_bytes(), b"garbage".as_slice()), (b"nobody", b"{}"), (org.as_bytes(), b"\xc3\x01 garbage")]
    {
        let record = kafka::producer::ProducerRecord {
            topic: &system.kafka.topics.events,
            key: Some(key),
            value: Some(value),
            headers: &[],
        };
        system.producer.publish(record).await.unwrap();
    }
    let unknown = Event { org_id: schemas::ids::OrgId::generate(), ..system.event("a") };
    let unknown_at = system.publish(&unknown).await;
    let event = system.event("a");
    let appended = system.publish(&event).await;
    ours.wait_for_ids(&[event.event_id.to_string()]).await;
    system.wait_until_passed(&appended).await;
    system.wait_until_passed(&unknown_at).await;
    assert_eq!((ours.received().len(), theirs.received().len()), (1, 0));
}
