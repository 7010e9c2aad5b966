//! What the view keeps: parts by time, what is too old for it, and ids over several parts.

use std::time::Duration;

use devstack::testing::eventually;
use materializer::projector::ProjectorConfig;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use schemas::codec::encode_event;
use schemas::ids::EventId;
use schemas::records::Event;
use uuid::Uuid;

use super::harness::{Bench, PATIENCE, event};

/// Appends an event to a partition of the test's choice, as a producer with another partitioner does.
pub async fn append_to(bench: &Bench, partition: i32, event: &Event) {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &bench.kafka.brokers).create().unwrap();
    let (key, value) = (event.org_id.to_string(), encode_event(event).unwrap());
    let record = FutureRecord::to(&bench.topics().events).partition(partition).key(&key).payload(&value);
    let delivered = producer.send(record, PATIENCE).await.unwrap();
    bench.note(&bench.topics().events, delivered.partition, delivered.offset);
}

/// An id that tells another day than today.
fn id_of_2024() -> EventId {
    EventId::from_uuid(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, 1_717_243_200, 0)))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_in_two_partitions_is_one_row_and_which_record_has_it_is_written_down() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let told = Event { event_id: id_of_2024(), ..event(org) };
    for twins in [&event(org), &told] {
        // In turn, and both at once: in one batch or in two.
        append_to(&bench, 1, twins).await;
        bench.passed().await;
        append_to(&bench, 2, twins).await;
        append_to(&bench, 0, twins).await;
        bench.passed().await;
        assert_eq!(bench.in_log_order().await.iter().filter(|(.., id)| *id == twins.event_id).count(), 1);
        let place: (i32, i64) = sqlx::query_as("SELECT log_partition, log_offset FROM event_places WHERE org_id = $1 AND event_id = $2")
            .bind(org.as_uuid())
            .bind(twins.event_id.as_uuid())
            .fetch_one(&bench.pool)
            .await
            .unwrap();
        let row = bench.in_log_order().await.into_iter().find(|(.., id)| *id == twins.event_id).unwrap();
        assert_eq!((place.0, place.1), (row.0, row.1));
        assert_eq!(row.0, 1, "the first that was read");
    }
    // Ids that ingest makes cost nothing here.
    bench.flow(&[org], 10).await;
    bench.passed().await;
    assert_eq!(bench.count("SELECT count(*) FROM event_places").await, 2);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_one_row_also_where_its_records_lie_in_different_parts() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    // A row of last month under an id of today, and one of its own day.
    let (told, own) = (event(org), Event { event_id: id_of_2024(), ..event(org) });
    for (nth, (one, at)) in [(&told, "2026-10-01T00:00:00Z"), (&own, "2024-06-01T12:00:00Z")].into_iter().enumerate() {
        sqlx::query("SELECT view_make_room('view', $1::text::timestamptz, 5)").bind(at).execute(&bench.pool).await.unwrap();
        sqlx::query(
            "INSERT INTO view.events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload)
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
        "INSERT INTO event_places SELECT org_id, event_id, log_epoch, log_partition, log_offset, accepted_at FROM view.events WHERE event_id = $1",
    )
    .bind(told.event_id.as_uuid())
    .execute(&bench.pool)
    .await
    .unwrap();
    let projecting = bench.project_as(ProjectorConfig { retention_days: 3650, ..ProjectorConfig::default() });
    bench.event(&told).await;
    bench.event(&own).await;
    bench.flow(&[org], 1).await;
    bench.passed().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 3);
    assert_eq!(bench.count("SELECT count(*) FROM event_places WHERE log_epoch = 0").await, 2, "both belong to the rows of before");
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_past_their_retention_are_dropped_and_parts_are_made_ahead() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    for days in [40, 20] {
        sqlx::query("SELECT view_make_room('view', now() - make_interval(days => $1), 5)").bind(days).execute(&bench.pool).await.unwrap();
        sqlx::query(
            "INSERT INTO view.events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload)
             VALUES ($1, gen_random_uuid(), 1, 0, 100 - $2, now() - make_interval(days => $2), 'a', '1')",
        )
        .bind(org.as_uuid())
        .bind(days)
        .execute(&bench.pool)
        .await
        .unwrap();
    }
    let projecting = bench.project_as(ProjectorConfig { retention_interval: Duration::from_millis(20), ..ProjectorConfig::default() });
    eventually(PATIENCE, "the older part is dropped", || async {
        (bench.count("SELECT count(*) FROM view.events").await == 1).then_some(())
    })
    .await;
    let dropped: (i32, i64) = sqlx::query_as("SELECT log_partition, log_offset FROM view_dropped WHERE org_id = $1")
        .bind(org.as_uuid())
        .fetch_one(&bench.pool)
        .await
        .unwrap();
    assert_eq!(dropped, (0, 60));
    let floor = "SELECT count(*) FROM view_floor WHERE floor BETWEEN now() - interval '36 days' AND now() - interval '30 days'";
    eventually(PATIENCE, "the floor is raised", || async { (bench.count(floor).await == 1).then_some(()) }).await;
    assert_eq!(bench.count("SELECT count(*) FROM view.parts WHERE ends_at > now() + interval '5 days'").await, 1, "room ahead");
    bench.flow(&[org], 3).await;
    bench.passed().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 4);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_below_the_floor_are_passed_over_and_a_part_that_went_meanwhile_stops_nothing() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    bench.flow(&[org], 2).await;
    bench.passed().await;
    // As another instance with a shorter retention would: this one has just written into the part.
    let drop_all = "SELECT count(*) FROM (SELECT view_drop_part(starts_at) FROM view.parts) AS dropped";
    assert!(bench.count(drop_all).await > 0);
    bench.flow(&[org], 2).await;
    bench.passed().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 0, "all of it is below the floor now");
    assert!(bench.dead_letters().await.is_empty());
    sqlx::query("UPDATE view_floor SET floor = '-infinity'").execute(&bench.pool).await.unwrap();
    projecting.stop().await;
    let projecting = bench.project();
    bench.flow(&[org], 2).await;
    bench.passed().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 2, "the part was made again");
    projecting.stop().await;
}
