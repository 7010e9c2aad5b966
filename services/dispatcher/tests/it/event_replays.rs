//! Events are replayed to an endpoint. The rows of the view are written as the materializer would write them.

use std::collections::BTreeSet;
use std::time::Duration;

use devstack::testing::eventually;
use reqwest::Method;
use schemas::ids::{DeliveryId, EndpointId, EventId};
use schemas::position::{RecordPosition, TOKEN_PURPOSE};
use schemas::records::DeliveryOutcome;
use serde_json::{Value, json};
use testkit::receiver::{Receiver, ReceiverBehavior};
use time::OffsetDateTime;
use time::macros::datetime;
use uuid::Uuid;

use crate::system::{KEY, OTHER_KEY, PARTITIONS, PATIENCE, System, config};

/// When the first shown event was accepted; each of the others a second after the one before.
const FIRST: OffsetDateTime = datetime!(2026-11-21 9:00 UTC);

/// As if the topics had been created again: the view has read nothing of the new logs, so its events are of older ones.
async fn start_new_logs(system: &System) {
    for topic in [&system.kafka.topics.events, &system.kafka.topics.deliveries] {
        sqlx::query(
            "INSERT INTO consumer_positions (consumer, topic, partition, log_epoch, next_offset)
             SELECT 'materializer', $1, n, 2, 0 FROM generate_series(0, $2 - 1) AS n",
        )
        .bind(topic)
        .bind(PARTITIONS)
        .execute(&system.pool)
        .await
        .unwrap();
    }
}

/// Shows so many events of the older log with the payload `{"n": …}`, each after the one before. Returns their ids.
async fn show_events(system: &System, count: i32, event_type: &str) -> Vec<EventId> {
    sqlx::query("SELECT view_ensure_time_partition('view', $1, 5)").bind(FIRST).execute(&system.pool).await.unwrap();
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "WITH numbered AS (
             SELECT gen_random_uuid() AS id, n + (SELECT COALESCE(max(log_offset), 0) FROM view.events) AS at
             FROM generate_series(1, $2) AS n
         ), shown AS (
             INSERT INTO view.events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type,
                                      payload)
             SELECT $1, id, 1, 0, at, $3 + make_interval(secs => at - 1), $4, format('{\"n\": %s}', at)::json
             FROM numbered
         )
         SELECT id FROM numbered ORDER BY at",
    )
    .bind(system.org.as_uuid())
    .bind(count)
    .bind(FIRST)
    .bind(event_type)
    .fetch_all(&system.pool)
    .await
    .unwrap();
    ids.into_iter().map(EventId::from_uuid).collect()
}

/// Makes it an event that was accepted after all that the test does: the log delivers it, and no replay of all.
async fn accept_later(system: &System, event: EventId) {
    let later = OffsetDateTime::now_utc() + Duration::from_secs(3600);
    sqlx::query("SELECT view_ensure_time_partition('view', $1, 5)").bind(later).execute(&system.pool).await.unwrap();
    sqlx::query("UPDATE view.events SET accepted_at = $2 WHERE event_id = $1")
        .bind(event.as_uuid())
        .bind(later)
        .execute(&system.pool)
        .await
        .unwrap();
}

/// Shows deliveries of events that were tried once.
async fn show_deliveries(system: &System, endpoint: EndpointId, events: &[EventId], status: &str) {
    sqlx::query(
        "INSERT INTO view.deliveries (org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts,
                                      last_started_at, created_at, last_appended_at, rank)
         SELECT $1, delivery_id, event_id, $2, 'wanted', $5, 1, now(), now(), now(), 1
         FROM UNNEST($3::uuid[], $4::uuid[]) AS t (delivery_id, event_id)",
    )
    .bind(system.org.as_uuid())
    .bind(endpoint.as_uuid())
    .bind(events.iter().map(|event| DeliveryId::of(endpoint, *event).as_uuid()).collect::<Vec<_>>())
    .bind(events.iter().map(EventId::as_uuid).collect::<Vec<_>>())
    .bind(status)
    .execute(&system.pool)
    .await
    .unwrap();
}

fn id_of(endpoint: &Value) -> EndpointId {
    endpoint["id"].as_str().unwrap().parse().unwrap()
}

fn texts(events: &[EventId]) -> BTreeSet<String> {
    events.iter().map(ToString::to_string).collect()
}

async fn start(system: &System, endpoint: EndpointId, body: Value) -> String {
    let path = format!("/endpoints/{endpoint}/replay");
    system.call(Method::POST, &path, KEY, Some(body)).await.expect(202).text("replay_id")
}

async fn shown(system: &System, id: &str) -> Value {
    system.call(Method::GET, &format!("/replays/{id}"), KEY, None).await.expect(200).body
}

async fn finished(system: &System, id: &str) -> Value {
    eventually(PATIENCE, "the replay has finished", || async {
        Some(shown(system, id).await).filter(|replay| replay["status"] == "finished")
    })
    .await
}

async fn wait_for_stage(system: &System, stage: &str) {
    eventually(PATIENCE, &format!("the replay is in the stage {stage}"), || async {
        let sql = "SELECT stage FROM replays WHERE status = 'running'";
        let stages: Vec<String> = sqlx::query_scalar(sql).fetch_all(&system.pool).await.unwrap();
        (stages == [stage]).then_some(())
    })
    .await;
}

/// As if the materializer had applied all that is on a topic.
async fn pass_topic(system: &System, topic: &str) {
    let ends = kafka::log_reader::bounds(&system.kafka, topic).await.unwrap();
    for (partition, _, end) in ends {
        sqlx::query(
            "INSERT INTO consumer_positions (consumer, topic, partition, next_offset)
             VALUES ('materializer', $1, $2, $3)
             ON CONFLICT (consumer, topic, partition) DO UPDATE SET next_offset = EXCLUDED.next_offset",
        )
        .bind(topic)
        .bind(partition)
        .bind(end)
        .execute(&system.pool)
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn missing_events_are_sent_once_across_a_crash() {
    let mut system = System::without_dispatcher().await;
    start_new_logs(&system).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await.with_patience(PATIENCE * 3);
    let endpoint = id_of(&system.endpoint(&receiver, json!({"max_in_flight": 100, "event_types": ["wanted"]})).await);
    let missing = show_events(&system, 1_200, "wanted").await;
    for status in ["delivered", "failed", "cancelled", "retrying"] {
        let known = show_events(&system, 10, "wanted").await;
        show_deliveries(&system, endpoint, &known, status).await;
    }
    show_events(&system, 1_100, "other").await;
    let last = show_events(&system, 1, "wanted").await;
    let path = format!("/endpoints/{endpoint}/replay");
    let counted = system.call(Method::POST, &path, KEY, Some(json!({"dry_run": true}))).await.expect(200).body;
    assert_eq!(counted, json!({"matched": 1_201, "matched_is_lower_bound": false}));
    let id = start(&system, endpoint, json!({})).await;
    let waiting = shown(&system, &id).await;
    assert_eq!((&waiting["only"], &waiting["waits_for"]), (&json!("missing"), &json!("log")), "{waiting}");

    system.start_dispatcher(config());
    eventually(PATIENCE, "the first batch is scheduled", || async {
        (shown(&system, &id).await["scheduled"].as_i64().unwrap() >= 500).then_some(())
    })
    .await;
    system.crash().await;
    assert_eq!(shown(&system, &id).await["status"], "running");
    // As if the leases of the attempts in flight were over.
    system.make_due("state = 'pending' AND lease_id IS NOT NULL").await;
    system.start_dispatcher(config());
    let ended = finished(&system, &id).await;
    assert_eq!((&ended["matched"], &ended["scheduled"]), (&json!(1_201), &json!(1_201)), "{ended}");
    assert_eq!(ended["reached"], "2026-11-21T09:39:00.000Z", "it has looked at all: {ended}");
    let wanted: BTreeSet<String> = texts(&missing).union(&texts(&last)).cloned().collect();
    receiver.wait_for_ids(&wanted.iter().cloned().collect::<Vec<_>>()).await;
    assert_eq!(receiver.counts().into_keys().collect::<BTreeSet<_>>(), wanted, "nothing else is sent");
    let rows: (i64, i64) = sqlx::query_as("SELECT count(*), count(*) FILTER (WHERE round = 1) FROM delivery_schedule")
        .fetch_one(&system.pool)
        .await
        .unwrap();
    assert_eq!(rows, (1_201, 1_201), "none is scheduled twice");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM replay_log_ends").fetch_one(&system.pool).await.unwrap();
    assert_eq!(left, 0);
    // A second replay finds nothing: the rows say that nothing is missing, though the view shows no report.
    let are_delivered = |rows: &[(String, i32, bool)]| rows.iter().all(|(state, ..)| state == "delivered");
    system.wait_for_schedule("each attempt is reported", are_delivered).await;
    let ended = shown(&system, &id).await;
    assert_eq!(
        (&ended["delivered"], &ended["failed"], &ended["progress"]),
        (&json!(1_201), &json!(0), &json!(1.0)),
        "each is counted once, whatever was in flight at the crash: {ended}"
    );
    pass_topic(&system, &system.kafka.topics.deliveries).await;
    let again = finished(&system, &start(&system, endpoint, json!({})).await).await;
    assert_eq!(again["matched"], 0, "{again}");
}

#[tokio::test]
async fn all_events_are_sent_again_acknowledged_ones_too() {
    let mut system = System::without_dispatcher().await;
    start_new_logs(&system).await;
    let receiver = Receiver::start(ReceiverBehavior::Turns(vec![500, 500, 500, 200])).await;
    let endpoint = id_of(&system.endpoint(&receiver, json!({"retry_schedule": [1]})).await);
    let events = show_events(&system, 3, "wanted").await;
    accept_later(&system, show_events(&system, 1, "wanted").await[0]).await;
    show_deliveries(&system, endpoint, &events[..1], "delivered").await;
    show_deliveries(&system, endpoint, &events[1..2], "failed").await;
    sqlx::query("UPDATE view.events SET acknowledged_at = now()").execute(&system.pool).await.unwrap();
    system.start_dispatcher(config());
    let id = start(&system, endpoint, json!({"only": "all"})).await;
    let ended = finished(&system, &id).await;
    assert_eq!((&ended["matched"], &ended["scheduled"]), (&json!(3), &json!(3)), "{ended}");
    for (event, attempts) in events.iter().zip([[2, 3], [2, 3], [1, 2]]) {
        let reports = system.wait_for_reports(*event, 2).await;
        let seen: Vec<_> = reports.iter().map(|report| (report.round, report.attempt, report.outcome)).collect();
        let [first, second] = attempts;
        assert_eq!(seen, [(1, first, DeliveryOutcome::Retrying), (1, second, DeliveryOutcome::Delivered)]);
    }
    assert!(receiver.counts().values().all(|count| *count == 2), "{:?}", receiver.counts());
    let body = String::from_utf8_lossy(&receiver.received()[0].body).into_owned();
    assert!(body.contains(r#""data":{"n": "#), "byte for byte: {body}");
}

#[tokio::test]
async fn a_replay_takes_what_is_selected() {
    let system = System::without_dispatcher().await;
    start_new_logs(&system).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let filter = json!({"path": "n", "gt": 10});
    let plain = id_of(&system.endpoint(&receiver, json!({})).await);
    let narrow = id_of(&system.endpoint(&receiver, json!({"event_types": ["order.*"], "filter": filter})).await);
    let orders = show_events(&system, 20, "order.paid").await;
    show_events(&system, 150, "order.created").await;
    show_events(&system, 5, "refund.created").await;
    show_deliveries(&system, narrow, &orders[10..13], "failed").await;
    let token = |offset: i64| {
        let appended_at_ms = (FIRST.unix_timestamp() + offset - 1) * 1000;
        let record = RecordPosition { partition: 0, offset, appended_at_ms };
        system.sealing.seal_stable_token(TOKEN_PURPOSE, system.org.as_uuid().as_bytes(), &record.to_bytes())
    };
    let count = async |endpoint: EndpointId, mut body: Value| {
        body["dry_run"] = json!(true);
        let path = format!("/endpoints/{endpoint}/replay");
        system.call(Method::POST, &path, KEY, Some(body)).await.expect(200).body["matched"].as_i64().unwrap()
    };
    for (endpoint, body, expected) in [
        (plain, json!({}), 175),
        (narrow, json!({"only": "all"}), 160),
        (narrow, json!({}), 157),
        (narrow, json!({"only": "missing", "event_types": ["order.created", "refund.created"]}), 150),
        (plain, json!({"from": "2026-11-21T09:00:01Z", "to": "2026-11-21T09:00:03Z"}), 2),
        (plain, json!({"from_position": token(174)}), 2),
        (plain, json!({"from_position": token(1), "to": "2026-11-21T09:00:03Z"}), 3),
        (narrow, json!({"only": "failed"}), 3),
        (narrow, json!({"only": "failed", "from": "2030-01-01T00:00:00Z"}), 0),
    ] {
        assert_eq!(count(endpoint, body.clone()).await, expected, "{body}");
    }
}

#[tokio::test]
async fn a_replay_that_cannot_start_says_why() {
    let system = System::without_dispatcher().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let endpoint = id_of(&system.endpoint(&receiver, json!({})).await);
    let path = format!("/endpoints/{endpoint}/replay");
    system.call(Method::POST, &path, OTHER_KEY, None).await.expect(404);
    let record = RecordPosition { partition: 0, offset: 1, appended_at_ms: 0 };
    let position = |owner: &[u8]| system.sealing.seal_stable_token(TOKEN_PURPOSE, owner, &record.to_bytes());
    let (own, foreign) = (position(system.org.as_uuid().as_bytes()), position(b"another one"));
    for (field, body) in [
        ("only", json!({"only": "none"})),
        ("from", json!({"from": "x"})),
        ("to", json!({"to": "x"})),
        ("to", json!({"from": "2026-11-21T09:00:00Z", "to": "2026-11-21T09:00:00Z"})),
        ("from_position", json!({"from_position": "x"})),
        ("from_position", json!({"from_position": foreign})),
        ("from_position", json!({"from_position": own, "from": "2026-11-21T09:00:00Z"})),
        ("from_position", json!({"from_position": own, "only": "failed"})),
        ("event_types", json!({"event_types": [""]})),
    ] {
        let refused = system.call(Method::POST, &path, KEY, Some(body)).await.expect(400).body;
        assert_eq!(refused["details"][0]["field"], field, "{refused}");
    }
    let id = start(&system, endpoint, json!({"from_position": own})).await;
    system.call(Method::POST, &path, KEY, None).await.expect(409);
    system.call(Method::DELETE, &format!("/replays/{id}"), KEY, None).await.expect(204);
    let ended = shown(&system, &id).await;
    assert_eq!((&ended["status"], &ended["waits_for"]), (&json!("cancelled"), &Value::Null), "{ended}");
    start(&system, endpoint, json!({})).await;
}

#[tokio::test]
async fn what_was_sent_from_the_log_is_not_missing() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let endpoint = id_of(&system.endpoint(&receiver, json!({})).await);
    let event = system.event("a");
    let appended = system.publish(&event).await;
    system.wait_for_reports(event.event_id, 1).await;
    system.wait_until_passed(&appended).await;
    assert!(system.schedule().await.is_empty(), "an attempt from the log leaves no row");
    let id = start(&system, endpoint, json!({})).await;
    wait_for_stage(&system, "log").await;
    system.show(&event, &appended, false).await;
    pass_topic(&system, &system.kafka.topics.events).await;
    // The view has the event, and not yet the report that it was delivered.
    wait_for_stage(&system, "reports").await;
    assert_eq!(shown(&system, &id).await["waits_for"], "log");
    show_deliveries(&system, endpoint, &[event.event_id], "delivered").await;
    pass_topic(&system, &system.kafka.topics.deliveries).await;
    let ended = finished(&system, &id).await;
    assert_eq!(ended["matched"], 0, "{ended}");
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn a_row_stays_for_a_replay_until_its_end_is_shown() {
    let system = System::start().await;
    let receiver = Receiver::start(ReceiverBehavior::Status(500)).await;
    let endpoint = id_of(&system.endpoint(&receiver, json!({"retry_schedule": [1], "event_types": ["a"]})).await);
    system.endpoint(&receiver, json!({"retry_schedule": [1], "event_types": ["b"]})).await;
    let with_rows = async || -> Vec<Uuid> {
        sqlx::query_scalar("SELECT endpoint_id FROM delivery_schedule").fetch_all(&system.pool).await.unwrap()
    };
    // The view never reads this event, so the replay waits.
    system.publish(&system.event("c")).await;
    let id = start(&system, endpoint, json!({})).await;
    wait_for_stage(&system, "log").await;
    for event_type in ["a", "b"] {
        let event = system.event(event_type);
        let appended = system.publish(&event).await;
        system.wait_for_reports(event.event_id, 2).await;
        system.wait_until_passed(&appended).await;
    }
    eventually(PATIENCE, "only the row of the endpoint without a replay is swept", || async {
        (with_rows().await == [endpoint.as_uuid()]).then_some(())
    })
    .await;
    system.call(Method::DELETE, &format!("/replays/{id}"), KEY, None).await.expect(204);
    system.wait_for_schedule("the other one is swept after the replay", |rows| rows.is_empty()).await;
}

#[tokio::test]
async fn an_endpoint_is_created_with_its_backfill_or_not_at_all() {
    let mut system = System::without_dispatcher().await;
    start_new_logs(&system).await;
    let receiver = Receiver::start(ReceiverBehavior::Status(200)).await;
    let events = show_events(&system, 10, "wanted").await;
    let from = json!({"backfill_from": "2026-11-21T09:00:04Z"});
    let endpoint = system.endpoint(&receiver, from.clone()).await;
    let id = endpoint["replay_id"].as_str().unwrap().to_owned();
    let read = system.call(Method::GET, &format!("/endpoints/{}", id_of(&endpoint)), KEY, None).await.expect(200);
    assert_eq!(read.body.get("replay_id"), None, "only its creation names it");
    assert!(system.endpoint(&receiver, json!({"backfill_from": null})).await.get("replay_id").is_none());
    let page = system.call(Method::GET, "/audit", KEY, None).await.expect(200).body.to_string();
    assert!(page.contains("replay.started") && page.contains("endpoint.created"), "{page}");
    for _ in 0..2 {
        system.endpoint(&receiver, from.clone()).await;
    }
    let listed = async || {
        let page = system.call(Method::GET, "/endpoints", KEY, None).await.expect(200).body;
        page["endpoints"].as_array().unwrap().len()
    };
    let before = listed().await;
    let body = json!({"url": receiver.url(), "backfill_from": "2026-11-21T09:00:04Z"});
    let refused = system.call(Method::POST, "/endpoints", KEY, Some(body)).await.expect(409).body;
    assert_eq!(refused["error_code"], "too_many_replays");
    let body = json!({"url": "nowhere", "backfill_from": "yesterday"});
    let refused = system.call(Method::POST, "/endpoints", KEY, Some(body)).await.expect(400).body;
    let fields: Vec<_> = refused["details"].as_array().unwrap().iter().map(|one| one["field"].clone()).collect();
    assert_eq!(fields, ["url", "backfill_from"]);
    assert_eq!(listed().await, before, "nothing was created");

    system.start_dispatcher(config());
    let ended = finished(&system, &id).await;
    assert_eq!((&ended["only"], &ended["scheduled"]), (&json!("missing"), &json!(6)), "{ended}");
    eventually(Duration::from_secs(60), "each backfill has sent its events", || async {
        (receiver.received().len() >= 18).then_some(())
    })
    .await;
    assert_eq!(receiver.counts().into_keys().collect::<BTreeSet<_>>(), texts(&events[4..]));
}
