//! Retention: time partitions, records below the floor, and ids in several time partitions.

use std::time::Duration;

use devstack::testing::eventually;
use materializer::projector::ProjectorConfig;
use materializer::rebuild::{RebuildConfig, rebuild, replay};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::Timestamp;
use rdkafka::producer::{FutureProducer, FutureRecord};
use schemas::codec::{encode_ack, encode_event};
use schemas::ids::EventId;
use schemas::records::{Ack, Event};
use time::OffsetDateTime;
use uuid::Uuid;

use super::harness::{Bench, PATIENCE, event};

/// Appends an event to a given partition, as a producer with another partitioner does.
pub(crate) async fn append_to(bench: &Bench, partition: i32, event: &Event) {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &bench.kafka.brokers).create().unwrap();
    let (key, value) = (event.org_id.to_string(), encode_event(event).unwrap());
    let record = FutureRecord::to(&bench.topics().events).partition(partition).key(&key).payload(&value);
    let delivered = producer.send(record, PATIENCE).await.unwrap();
    bench.note(&bench.topics().events, delivered.partition, delivered.offset);
}

const REBUILD: RebuildConfig =
    RebuildConfig { from: None, retention_days: 30, accept_differences: false, restart: false, dry_run: false };

/// An id that was made on another day.
fn id_of_2024() -> EventId {
    EventId::from_uuid(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, 1_717_243_200, 0)))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_in_two_partitions_is_one_row_with_its_owner() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let foreign = Event { event_id: id_of_2024(), ..event(org) };
    for twins in [&event(org), &foreign] {
        // One after the other, and two at once: in one batch or in two.
        append_to(&bench, 1, twins).await;
        bench.all_applied().await;
        append_to(&bench, 2, twins).await;
        append_to(&bench, 0, twins).await;
        bench.all_applied().await;
        assert_eq!(bench.in_log_order().await.iter().filter(|(.., id)| *id == twins.event_id).count(), 1);
        let owner: (i32, i64) =
            sqlx::query_as("SELECT log_partition, log_offset FROM event_ids WHERE org_id = $1 AND event_id = $2")
                .bind(org.as_uuid())
                .bind(twins.event_id.as_uuid())
                .fetch_one(&bench.pool)
                .await
                .unwrap();
        let row = bench.in_log_order().await.into_iter().find(|(.., id)| *id == twins.event_id).unwrap();
        assert_eq!((owner.0, owner.1), (row.0, row.1));
        assert_eq!(row.0, 1, "the first record that was read owns the id");
    }
    // Ids that ingest makes need no row.
    let (key, value) = (org.to_string(), encode_event(&event(org)).unwrap());
    let by_ingest: [(&str, &[u8]); 2] = [("content-type", b"application/avro"), ("triggers-key-id", b"k")];
    bench.append(&bench.topics().events, Some(key.as_bytes()), Some(&value), &by_ingest).await;
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM event_ids").await, 2);
    projecting.stop().await;
}

/// Appends an event with a given append time. The settings of the manifest do not allow that, so they are changed.
pub(crate) async fn append_at(bench: &Bench, partition: i32, event: &Event, at: OffsetDateTime) {
    let (key, value) = (event.org_id.to_string(), encode_event(event).unwrap());
    append_record_at(bench, &bench.topics().events, partition, (&key, &value), at).await;
}

pub(crate) async fn append_record_at(
    bench: &Bench,
    topic: &str,
    partition: i32,
    (key, value): (&str, &[u8]),
    at: OffsetDateTime,
) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &bench.kafka.brokers).create().unwrap();
    let lenient = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("message.timestamp.type", "CreateTime");
    admin.alter_configs(&[lenient], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &bench.kafka.brokers).create().unwrap();
    let at_ms = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap();
    // The broker gets the setting a moment later than the controller. Records without a value show it: the record
    // itself must not have another time first.
    eventually(PATIENCE, "the topic uses the producer's time", || async {
        let probe = FutureRecord::<str, [u8]>::to(topic).partition(partition).key(key).timestamp(at_ms);
        let delivered = producer.send(probe, PATIENCE).await.unwrap();
        bench.note(topic, delivered.partition, delivered.offset);
        (delivered.timestamp == Timestamp::CreateTime(at_ms)).then_some(())
    })
    .await;
    let record = FutureRecord::to(topic).partition(partition).key(key).payload(value).timestamp(at_ms);
    let delivered = producer.send(record, PATIENCE).await.unwrap();
    assert_eq!(delivered.timestamp, Timestamp::CreateTime(at_ms));
    bench.note(topic, delivered.partition, delivered.offset);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_long_below_the_floor_is_not_pending() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let day = Duration::from_secs(86_400);
    let now = OffsetDateTime::now_utc();
    for days in [5_u32, 1, 0] {
        let ack = Ack { org_id: org, event_id: event(org).event_id };
        let (key, value) = (org.to_string(), encode_ack(&ack).unwrap());
        append_record_at(&bench, &bench.topics().acks, 0, (&key, &value), now - days * day).await;
    }
    let projecting = bench.project_as(ProjectorConfig { retention_days: 2, ..ProjectorConfig::default() });
    bench.all_applied().await;
    let waiting = "SELECT count(*) FROM view.pending_effects WHERE appended_at > now() - interval '2 days'";
    assert_eq!((bench.count(waiting).await, bench.count("SELECT count(*) FROM view.pending_effects").await), (2, 2));
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_sent_twice_around_midnight_is_one_row() {
    let bench = Bench::start().await;
    let midnight = OffsetDateTime::now_utc().replace_time(time::Time::MIDNIGHT);
    let made_at = u64::try_from(midnight.unix_timestamp()).unwrap() - 1;
    let mut expected = 0;
    for partitions in [[0, 0], [0, 1], [1, 0]] {
        let org = bench.organization(0).await;
        let id = EventId::from_uuid(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, made_at, 0)));
        let twins = Event { event_id: id, ..event(org) };
        append_at(&bench, partitions[0], &twins, midnight - Duration::from_millis(100)).await;
        append_at(&bench, partitions[1], &twins, midnight + Duration::from_millis(200)).await;
        expected += 1;
    }
    // All of them in one batch.
    let projecting = bench.project();
    bench.all_applied().await;
    assert_eq!(bench.in_log_order().await.len(), expected);
    projecting.stop().await;
    let done = rebuild(bench.pool.clone(), bench.kafka.clone(), REBUILD, |_| {}).await.unwrap();
    assert!(done.switched, "{:?}", done.differences);
    assert_eq!(bench.in_log_order().await.len(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_an_id_is_kept_for_its_newest_record() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let twins = event(org);
    let now = OffsetDateTime::now_utc();
    append_at(&bench, 0, &twins, now - Duration::from_secs(12 * 86_400)).await;
    append_at(&bench, 0, &twins, now - Duration::from_secs(86_400)).await;
    // Time partitions of ten days: the records are in different ones.
    let projecting = bench.project_as(ProjectorConfig { retention_days: 60, ..ProjectorConfig::default() });
    bench.all_applied().await;
    projecting.stop().await;
    assert_eq!(bench.in_log_order().await.len(), 1);
    let drop_expired = "SELECT view_drop_time_partition(starts_at) FROM view.time_partitions
                        WHERE ends_at <= now() - interval '1 day'";
    sqlx::query(drop_expired).execute(&bench.pool).await.unwrap();
    let sweeping = bench.project_as(ProjectorConfig {
        retention_days: 60,
        sweep_interval: Duration::from_millis(20),
        ..ProjectorConfig::default()
    });
    bench.flow(&[org], 1).await;
    bench.all_applied().await;
    // A row that the same statement deletes: it shows that the statement ran.
    sqlx::query(
        "INSERT INTO event_ids (org_id, event_id, canonical_id, log_epoch, log_partition, log_offset, newest_at)
         SELECT $1, gen_random_uuid(), gen_random_uuid(), 0, 0, 0, floor - interval '1 second' FROM retention_floor",
    )
    .bind(org.as_uuid())
    .execute(&bench.pool)
    .await
    .unwrap();
    let expired = "SELECT count(*) FROM event_ids WHERE log_epoch = 0";
    eventually(PATIENCE, "a sweep", || async { (bench.count(expired).await == 0).then_some(()) }).await;
    let without_event = "SELECT count(*) FROM event_ids i
                       WHERE NOT EXISTS (SELECT FROM view.events e WHERE e.event_id = i.event_id)";
    assert_eq!((bench.in_log_order().await.len(), bench.count(without_event).await), (1, 1));
    sweeping.stop().await;
    let from = now - Duration::from_secs(30 * 86_400);
    replay(bench.pool.clone(), bench.kafka.clone(), (from, None), 60, |_| {}).await.unwrap();
    assert_eq!(
        bench.in_log_order().await.len(),
        1,
        "a duplicate does not become an event when its original has expired"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_one_row_across_time_partitions() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    // A row of last month with an id of today, and a row of the day of its id.
    let (of_today, of_its_day) = (event(org), Event { event_id: id_of_2024(), ..event(org) });
    for (nth, (one, at)) in
        [(&of_today, "2026-10-01T00:00:00Z"), (&of_its_day, "2024-06-01T12:00:00Z")].into_iter().enumerate()
    {
        sqlx::query("SELECT view_ensure_time_partition('view', $1::text::timestamptz, 5)")
            .bind(at)
            .execute(&bench.pool)
            .await
            .unwrap();
        sqlx::query(
            "INSERT INTO view.events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type,
                                      payload)
             VALUES ($1, $2, 0, 0, $3, $4::text::timestamptz, 'a', '1')",
        )
        .bind(org.as_uuid())
        .bind(one.event_id.as_uuid())
        .bind(i64::try_from(nth).unwrap())
        .bind(at)
        .execute(&bench.pool)
        .await
        .unwrap();
    }
    sqlx::query(
        "INSERT INTO event_ids SELECT org_id, event_id, event_id, log_epoch, log_partition, log_offset, accepted_at
         FROM view.events WHERE event_id = $1",
    )
    .bind(of_today.event_id.as_uuid())
    .execute(&bench.pool)
    .await
    .unwrap();
    let projecting = bench.project_as(ProjectorConfig { retention_days: 3650, ..ProjectorConfig::default() });
    bench.event(&of_today).await;
    bench.event(&of_its_day).await;
    bench.flow(&[org], 1).await;
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 3);
    assert_eq!(
        bench.count("SELECT count(*) FROM event_ids WHERE log_epoch = 0").await,
        2,
        "the earlier rows own both ids"
    );
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_partitions_are_created_ahead_and_dropped() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    for days in [40, 20] {
        sqlx::query("SELECT view_ensure_time_partition('view', now() - make_interval(days => $1), 5)")
            .bind(days)
            .execute(&bench.pool)
            .await
            .unwrap();
        sqlx::query(
            "INSERT INTO view.events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type,
                                      payload)
             VALUES ($1, gen_random_uuid(), 1, 0, 100 - $2, now() - make_interval(days => $2), 'a', '1')",
        )
        .bind(org.as_uuid())
        .bind(days)
        .execute(&bench.pool)
        .await
        .unwrap();
    }
    let projecting = bench
        .project_as(ProjectorConfig { retention_interval: Duration::from_millis(20), ..ProjectorConfig::default() });
    eventually(PATIENCE, "the older time partition is dropped", || async {
        (bench.count("SELECT count(*) FROM view.events").await == 1).then_some(())
    })
    .await;
    let dropped: (i32, i64) = sqlx::query_as("SELECT log_partition, log_offset FROM retention_gaps WHERE org_id = $1")
        .bind(org.as_uuid())
        .fetch_one(&bench.pool)
        .await
        .unwrap();
    assert_eq!(dropped, (0, 60));
    let floor = "SELECT count(*) FROM retention_floor
                 WHERE floor BETWEEN now() - interval '36 days' AND now() - interval '30 days'";
    eventually(PATIENCE, "the floor is raised", || async { (bench.count(floor).await == 1).then_some(()) }).await;
    assert_eq!(
        bench.count("SELECT count(*) FROM view.time_partitions WHERE ends_at > now() + interval '5 days'").await,
        1,
        "a time partition is created ahead"
    );
    bench.flow(&[org], 3).await;
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 4);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_below_the_floor_are_skipped() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    bench.flow(&[org], 2).await;
    bench.all_applied().await;
    // As another instance with a shorter retention does, although this one has just written into the time partition.
    let drop_all =
        "SELECT count(*) FROM (SELECT view_drop_time_partition(starts_at) FROM view.time_partitions) AS dropped";
    assert!(bench.count(drop_all).await > 0);
    bench.flow(&[org], 2).await;
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 0, "all events are below the floor now");
    let newest_dropped = "SELECT sum(log_offset)::bigint FROM retention_gaps";
    assert_eq!(bench.count(newest_dropped).await, 3, "the skipped records are a retention gap");
    assert!(bench.dead_letters().await.is_empty());
    sqlx::query("UPDATE retention_floor SET floor = '-infinity'").execute(&bench.pool).await.unwrap();
    projecting.stop().await;
    let projecting = bench.project();
    bench.flow(&[org], 2).await;
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 2, "the time partition is created again");
    projecting.stop().await;
}
