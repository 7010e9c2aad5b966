//! Records that become dead letters, and records that are skipped.

use std::time::Duration;

use devstack::testing::eventually;
use materializer::projector::ProjectorConfig;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use schemas::ids::{EndpointId, EventId, OrgId};
use schemas::records::{DeliveryOutcome, Event};
use testkit::records::attempt;
use testkit::setup;

use super::harness::{Bench, JSON, PARTITIONS, PATIENCE, event, stranger};

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_records_become_dead_letters() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let (events, acks) = (bench.topics().events.clone(), bench.topics().acks.clone());
    let (key, unknown) = (org.to_string().into_bytes(), stranger(0).to_string().into_bytes());
    let garbage: &[u8] = &[0xC3, 0x01, 0xFF, 0x00, 0x80];
    let json = br#"{"type": "a", "data": 1}"#;

    let (before, after) = (event(org), event(org));
    bench.event(&before).await;
    let first = bench.append(&events, Some(&key), Some(garbage), &[("x", b"\xFF\x00")]).await;
    let second = bench.append(&events, Some(&key), None, &[]).await;
    let third = bench.append(&events, Some(&unknown), Some(json), JSON).await;
    let fourth = bench.append(&acks, Some(&key), Some(b"{}"), JSON).await;
    bench.event(&after).await;
    bench.ack(org, after.event_id).await;

    let projecting = bench.project();
    bench.all_applied().await;
    assert!(bench.row(org, before.event_id).await.is_some());
    assert!(bench.row(org, after.event_id).await.unwrap().acknowledged_at.is_some(), "the next ack is applied too");
    assert_eq!(bench.in_log_order().await.len(), 2);

    let dead_letters = bench.dead_letters().await;
    let expected = [
        (&events, &first, "bad_avro", &key, Some(garbage)),
        (&events, &second, "null_value", &key, None),
        (&events, &third, "unknown_organization", &unknown, Some(&json[..])),
        (&acks, &fourth, "invalid_ack", &key, Some(&b"{}"[..])),
    ];
    assert_eq!(dead_letters.len(), expected.len(), "{dead_letters:?}");
    for (topic, appended, class, key, value) in expected {
        let position = (topic.clone(), appended.partition, appended.offset);
        let dead_letter = dead_letters.iter().find(|dead_letter| dead_letter.position() == position).unwrap();
        assert_eq!(dead_letter.header("triggers-dlq-error-class"), class);
        assert!(!dead_letter.header("triggers-dlq-error-message").is_empty());
        assert_eq!(dead_letter.header("triggers-dlq-timestamp"), appended.timestamp_ms.unwrap().to_string());
        assert_eq!(dead_letter.header("triggers-dlq-group"), bench.topics().group_materializer);
        assert_eq!(dead_letter.key.as_deref(), Some(&key[..]));
        assert_eq!(dead_letter.value.as_deref(), value, "the bytes are unchanged");
        assert_eq!(
            dead_letter.headers.get("x").map(Vec::as_slice),
            (class == "bad_avro").then_some(&b"\xFF\x00"[..]),
            "so are the headers"
        );
    }
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_for_a_dead_letter_leaves_its_position() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let events = &bench.topics().events;
    // Small on the network, and large after decompression.
    let compressing: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.kafka.brokers)
        .set("compression.type", "gzip")
        .set("message.max.bytes", "10000000")
        .create()
        .unwrap();
    let (key, value) = (org.to_string(), vec![b' '; 4_000_000]);
    let record = FutureRecord::to(events).partition(0).key(&key).payload(&value);
    let appended = compressing.send(record, PATIENCE).await.unwrap();
    bench.note(events, 0, appended.offset);
    let after = event(org);
    bench.event(&after).await;
    let projecting = bench.project();
    bench.all_applied().await;
    assert!(bench.row(org, after.event_id).await.is_some());
    let dead_letters = bench.dead_letters().await;
    assert_eq!(dead_letters.len(), 1);
    assert_eq!(dead_letters[0].position(), (events.clone(), 0, appended.offset));
    assert_eq!(dead_letters[0].header("triggers-dlq-error-class"), "value_too_large");
    assert_eq!(dead_letters[0].value, None);
    projecting.is_ready(true).await;
    projecting.stop().await;
}

async fn erase(bench: &Bench, org: OrgId) {
    sqlx::query("UPDATE organizations SET status = 'erased' WHERE id = $1")
        .bind(org.as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_an_erased_organization_leave_no_trace() {
    let bench = Bench::start().await;
    let (erased, other) = (bench.organization(0).await, bench.organization(0).await);
    erase(&bench, erased).await;
    let gone = event(erased);
    bench.event(&gone).await;
    bench.ack(erased, gone.event_id).await;
    bench.attempt(&attempt(erased, gone.event_id, EndpointId::generate(), 1, DeliveryOutcome::Delivered)).await;
    let after = event(other);
    bench.event(&after).await;
    let projecting = bench.project();
    bench.all_applied().await;
    assert!(bench.row(other, after.event_id).await.is_some());
    assert_eq!(bench.in_log_order().await.len(), 1);
    for trace in [
        "SELECT count(*) FROM view.deliveries",
        "SELECT count(*) FROM view.delivery_attempts",
        "SELECT count(*) FROM view.pending_effects",
    ] {
        assert_eq!(bench.count(trace).await, 0, "{trace}");
    }
    assert!(bench.dead_letters().await.is_empty());
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_organization_is_skipped_within_seconds() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    bench.event(&event(org)).await;
    bench.all_applied().await;
    assert_eq!(bench.in_log_order().await.len(), 1);
    erase(&bench, org).await;
    eventually(Duration::from_secs(20), "an event of the erased organization is skipped", || async {
        let late = event(org);
        bench.event(&late).await;
        bench.all_applied().await;
        bench.row(org, late.event_id).await.is_none().then_some(())
    })
    .await;
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_postgres_rejects_becomes_a_dead_letter() {
    let bench = Bench::start().await;
    let orgs = [bench.organization(0).await, bench.organization(1).await];
    sqlx::raw_sql("ALTER TABLE view.events ADD CONSTRAINT no_poison CHECK (event_type <> 'poison')")
        .execute(&bench.pool)
        .await
        .unwrap();
    bench.watch_writes().await;
    let mut ids = bench.flow(&orgs, 150).await;
    let poison = Event { event_type: "poison".to_owned(), ..event(orgs[1]) };
    let refused = bench.event(&poison).await;
    ids.extend(bench.flow(&orgs, 149).await);
    let projecting = bench.project();
    bench.all_applied().await;
    bench.assert_each_once(ids).await;
    let dead_letters = bench.dead_letters().await;
    assert_eq!(dead_letters.len(), 1, "{dead_letters:?}");
    assert_eq!(dead_letters[0].header("triggers-dlq-error-class"), "refused_by_database");
    assert!(dead_letters[0].header("triggers-dlq-error-message").contains("no_poison"));
    assert_eq!(dead_letters[0].position(), (bench.topics().events.clone(), 1, refused.offset));
    assert_eq!(dead_letters[0].value, Some(schemas::codec::encode_event(&poison).unwrap()));
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_without_an_event_blocks_nothing() {
    let bench = Bench::start().await;
    let org = bench.organization(2).await;
    bench.attempt(&attempt(org, EventId::generate(), EndpointId::generate(), 1, DeliveryOutcome::Failed)).await;
    let projecting = bench.project();
    bench.flow(&[org], 3).await;
    bench.all_applied().await;
    assert_eq!(bench.in_log_order().await.len(), 3);
    assert!(bench.dead_letters().await.is_empty());
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_position_waits_until_the_dead_letter_is_written() {
    let mut bench = Bench::start().await;
    let org = bench.organization(0).await;
    // A topic that does not exist yet.
    bench.kafka.topics.dead_letters.push_str(".later");
    let projecting = bench.project();
    projecting.is_ready(true).await;
    let garbage = bench.append(&bench.topics().events, Some(org.to_string().as_bytes()), Some(b"garbage"), &[]).await;
    bench.event(&event(org)).await;
    projecting.is_ready(false).await;
    assert_eq!(bench.position(&bench.topics().events, 0).await, Some(garbage.offset));
    setup::apply_topics(&bench.kafka, PARTITIONS).await;
    bench.all_applied().await;
    let dead_letters = bench.dead_letters().await;
    assert_eq!((dead_letters.len(), dead_letters[0].value.as_deref()), (1, Some(&b"garbage"[..])));
    projecting.is_ready(true).await;
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_garbage_is_one_dead_letter_each() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let (events, key) = (bench.topics().events.clone(), org.to_string().into_bytes());
    let garbage: Vec<Vec<u8>> = (0..2000).map(|n| format!("garbage {n}").into_bytes()).collect();
    for some in garbage.chunks(100) {
        futures_util::future::join_all(some.iter().map(|value| bench.append(&events, Some(&key), Some(value), &[])))
            .await;
    }
    bench.event(&event(org)).await;
    let projecting = bench.project();
    bench.all_applied().await;
    let mut values: Vec<Vec<u8>> =
        bench.dead_letters().await.into_iter().filter_map(|dead_letter| dead_letter.value).collect();
    values.sort_unstable();
    let mut expected = garbage;
    expected.sort_unstable();
    assert!(values == expected, "{} dead letters", values.len());
    projecting.stop().await;
}

/// Rows of `rejected` that a tenant may see: organization, topic, partition, offset, class and message, in the order of
/// their offsets.
async fn rejected(bench: &Bench) -> Vec<(OrgId, String, i32, i64, String, String)> {
    let rows: Vec<(uuid::Uuid, String, i32, i64, String, String)> = sqlx::query_as(
        "SELECT org_id, log_topic, log_partition, log_offset, error_class, message FROM rejected
         WHERE org_id IS NOT NULL ORDER BY log_topic, log_offset",
    )
    .fetch_all(&bench.pool)
    .await
    .unwrap();
    rows.into_iter()
        .map(|(org, topic, partition, offset, class, message)| {
            (OrgId::from_uuid(org), topic, partition, offset, class, message)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_record_is_stored_once_for_its_tenant() {
    let bench = Bench::start().await;
    let (org, erased) = (bench.organization(0).await, bench.organization(0).await);
    erase(&bench, erased).await;
    let (events, acks, deliveries) =
        (bench.topics().events.clone(), bench.topics().acks.clone(), bench.topics().deliveries.clone());
    let key = org.to_string().into_bytes();
    // The error message quotes bytes of the record that PostgreSQL cannot store.
    let named = [("ce_specversion", &b"1.0"[..]), ("ce_id", b"\xFF")];
    let first = bench.append(&events, Some(&key), Some(b"1"), &named).await;
    let second = bench.append(&events, Some(&key), Some(b"garbage"), &[]).await;
    let third = bench.append(&acks, Some(&key), Some(b"{}"), JSON).await;
    for key in [stranger(0).to_string().into_bytes(), erased.to_string().into_bytes(), b"shop".to_vec()] {
        bench.append(&events, Some(&key), Some(b"garbage"), &[]).await;
    }
    bench.append(&deliveries, Some(&key), Some(b"garbage"), &[]).await;
    let after = event(org);
    bench.event(&after).await;

    let projecting = bench.project();
    bench.all_applied().await;
    projecting.stop().await;
    let stored = rejected(&bench).await;
    let columns: Vec<_> = stored
        .iter()
        .map(|(org, topic, partition, offset, class, _)| (*org, topic, *partition, *offset, class.as_str()))
        .collect();
    let wanted = [(&acks, &third, "invalid_ack"), (&events, &first, "malformed"), (&events, &second, "malformed")];
    assert_eq!(
        columns,
        wanted.map(|(topic, appended, class)| (org, topic, appended.partition, appended.offset, class))
    );
    assert!(stored.iter().all(|(.., message)| !message.is_empty()));

    sqlx::query("UPDATE consumer_positions SET next_offset = 0").execute(&bench.pool).await.unwrap();
    let projecting = bench.project();
    bench.all_applied().await;
    assert_eq!(rejected(&bench).await, stored, "a second reading adds no row");
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_records_are_deleted_after_thirty_days() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    sqlx::query(
        "INSERT INTO rejected (org_id, log_topic, log_partition, log_epoch, log_offset, appended_at, error_class,
                               message)
         SELECT $1, 't', 0, 1, day, now() - day * interval '1 day', 'c', 'm'
         FROM UNNEST('{28, 29, 40, 41}'::integer[]) day",
    )
    .bind(org.as_uuid())
    .execute(&bench.pool)
    .await
    .unwrap();
    let config = ProjectorConfig { sweep_interval: Duration::from_millis(50), ..ProjectorConfig::default() };
    let projecting = bench.project_as(config);
    eventually(PATIENCE, "the old rows are deleted", || async { (rejected(&bench).await.len() == 2).then_some(()) })
        .await;
    projecting.stop().await;
}
