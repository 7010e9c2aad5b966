//! One event per dedup key and window; every other record is a duplicate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use devstack::testing::eventually;
use schemas::codec::encode_event;
use schemas::ids::EventId;
use schemas::records::{Dedup, Event};
use uuid::Uuid;

use super::harness::{Bench, PATIENCE, event, keyed};
use super::retention::append_to;

/// Every duplicate and its original.
async fn duplicates(bench: &Bench) -> Vec<(EventId, EventId)> {
    let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "SELECT event_id, canonical_id FROM contract.duplicates JOIN event_ids USING (org_id, event_id, canonical_id)
         ORDER BY log_partition, log_offset",
    )
    .fetch_all(&bench.pool)
    .await
    .unwrap();
    rows.into_iter().map(|(event, original)| (EventId::from_uuid(event), EventId::from_uuid(original))).collect()
}

async fn rows(bench: &Bench) -> Vec<EventId> {
    bench.in_log_order().await.into_iter().map(|(.., id)| id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_dedup_id_are_one_row() {
    let bench = Bench::start().await;
    let (org, other) = (bench.organization(0).await, bench.organization(0).await);
    let original = keyed(org, Dedup::dedup_id("d", b"one"));
    let in_batch = keyed(org, Dedup::dedup_id("d", b"other body, same id"));
    let foreign = keyed(other, Dedup::dedup_id("d", b"one"));
    let namespace = keyed(org, Dedup::idempotency_key("d", b"one"));
    for event in [&original, &in_batch, &foreign, &namespace] {
        bench.event(event).await;
    }
    let projecting = bench.project();
    bench.all_applied().await;
    let later = keyed(org, Dedup::dedup_id("d", b"one"));
    bench.event(&later).await;
    let (json, _) = bench.json_event(org, r#"{"type": "a", "data": 1, "dedup_id": "d"}"#).await;
    bench.all_applied().await;
    assert_eq!(rows(&bench).await, [original.event_id, foreign.event_id, namespace.event_id]);
    let first = original.event_id;
    assert_eq!(duplicates(&bench).await, [(in_batch.event_id, first), (later.event_id, first), (json, first)]);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_are_one_row_per_body() {
    let bench = Bench::start().await;
    let org = bench.organization(1).await;
    let original = keyed(org, Dedup::idempotency_key("k", b"one"));
    let repeat = keyed(org, Dedup::idempotency_key("k", b"one"));
    let twin = keyed(org, Dedup::idempotency_key("k", b"two"));
    for event in [&original, &repeat, &twin] {
        bench.event(event).await;
    }
    let projecting = bench.project();
    bench.all_applied().await;
    assert_eq!(rows(&bench).await, [original.event_id, twin.event_id]);
    assert_eq!(duplicates(&bench).await, [(repeat.event_id, original.event_id)]);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_after_the_window_is_a_new_event() {
    let bench = Bench::start().await;
    let org = bench.organization(2).await;
    let short = || keyed(org, Dedup { window_seconds: 2, ..Dedup::dedup_id("d", b"one") });
    let projecting = bench.project();
    let (original, repeat, renewed, its_repeat) = (short(), short(), short(), short());
    let first = bench.event(&original).await;
    bench.event(&repeat).await;
    let ends_ms = first.timestamp_ms.unwrap() + 2000;
    eventually(PATIENCE, "the window ends", || async {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        (now > Duration::from_millis(u64::try_from(ends_ms).unwrap())).then_some(())
    })
    .await;
    bench.event(&renewed).await;
    bench.event(&its_repeat).await;
    bench.all_applied().await;
    assert_eq!(rows(&bench).await, [original.event_id, renewed.event_id]);
    assert_eq!(
        duplicates(&bench).await,
        [(repeat.event_id, original.event_id), (its_repeat.event_id, renewed.event_id)]
    );
    projecting.stop().await;
}

/// A native producer sends its records again after a day, with the same ids.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_read_again_after_its_window_is_not_a_new_one() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let short = || keyed(org, Dedup { window_seconds: 1, ..Dedup::dedup_id("d", b"one") });
    let projecting = bench.project();
    let (original, repeat, renewed) = (short(), short(), short());
    bench.event(&original).await;
    let last = bench.event(&repeat).await;
    bench.all_applied().await;
    let ends_ms = last.timestamp_ms.unwrap() + 1000;
    eventually(PATIENCE, "the window ends", || async {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        (now > Duration::from_millis(u64::try_from(ends_ms).unwrap())).then_some(())
    })
    .await;
    for event in [&repeat, &original, &renewed, &repeat, &original] {
        bench.event(event).await;
    }
    bench.all_applied().await;
    assert_eq!(rows(&bench).await, [original.event_id, renewed.event_id]);
    assert_eq!(duplicates(&bench).await, [(repeat.event_id, original.event_id)]);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_a_duplicates_id_and_no_key_is_that_duplicate() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let (original, repeat) = (keyed(org, Dedup::dedup_id("k", b"")), keyed(org, Dedup::dedup_id("k", b"")));
    for event in [&original, &repeat, &Event { dedup: None, ..repeat.clone() }] {
        bench.event(event).await;
        bench.all_applied().await;
    }
    assert_eq!(rows(&bench).await, [original.event_id]);
    // In one batch, and from another partition.
    let again = keyed(org, Dedup::dedup_id("k", b""));
    bench.event(&again).await;
    bench.event(&Event { dedup: None, ..again.clone() }).await;
    bench.all_applied().await;
    append_to(&bench, 2, &Event { dedup: None, ..again }).await;
    bench.all_applied().await;
    assert_eq!(rows(&bench).await, [original.event_id]);
    projecting.stop().await;
}

/// A producer copies the id of an event that ingest made, with the dedup key of another event.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_record_of_an_id_in_a_batch_is_the_event() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let (holder, made) = (keyed(org, Dedup::dedup_id("k", b"")), event(org));
    let copy = Event { dedup: Some(Dedup::dedup_id("k", b"")), ..made.clone() };
    bench.event(&holder).await;
    let (key, value) = (org.to_string(), encode_event(&made).unwrap());
    let by_ingest: [(&str, &[u8]); 2] = [("content-type", b"application/avro"), ("triggers-key-id", b"k")];
    bench.append(&bench.topics().events, Some(key.as_bytes()), Some(&value), &by_ingest).await;
    bench.event(&copy).await;
    let projecting = bench.project();
    bench.all_applied().await;
    assert_eq!(rows(&bench).await, [holder.event_id, made.event_id]);
    assert_eq!(bench.in_log_order().await[1].1, 1, "the record that was read first");
    assert_eq!(duplicates(&bench).await, []);
    projecting.stop().await;
}

/// One id in two partitions, with a key that another event owns and without a key: the second writer follows the
/// decision of the first one.
#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_writers_take_one_decision_on_an_id() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let (original, becomes_event) = (keyed(org, Dedup::dedup_id("k", b"")), keyed(org, Dedup::dedup_id("k", b"")));
    bench.event(&original).await;
    bench.all_applied().await;
    let mut other_writer = runtime::postgres::begin(&bench.pool).await.unwrap();
    for statement in [
        "INSERT INTO event_ids (org_id, event_id, canonical_id, log_epoch, log_partition, log_offset, newest_at)
         VALUES ($1, $2, $2, 1, 2, 7, now())",
        "INSERT INTO view.events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type,
                                  payload)
         VALUES ($1, $2, 1, 2, 7, now(), 'a', '1')",
    ] {
        let query = sqlx::query(statement).bind(org.as_uuid()).bind(becomes_event.event_id.as_uuid());
        query.execute(&mut *other_writer).await.unwrap();
    }
    bench.event(&becomes_event).await;
    let blocked =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually(PATIENCE, "the writer with the key waits for the writer without", || async {
        (bench.count(blocked).await > 0).then_some(())
    })
    .await;
    other_writer.commit().await.unwrap();
    bench.all_applied().await;
    assert_eq!(rows(&bench).await, [original.event_id, becomes_event.event_id]);
    assert_eq!(duplicates(&bench).await, []);
    // The other order: a writer that finds a duplicate stores its id, so that a concurrent writer cannot.
    let becomes_duplicate = keyed(org, Dedup::dedup_id("k", b""));
    let last = bench.event(&becomes_duplicate).await;
    bench.all_applied().await;
    assert_eq!(duplicates(&bench).await, [(becomes_duplicate.event_id, original.event_id)]);
    let owner: Vec<(i32, i64)> = sqlx::query_as("SELECT log_partition, log_offset FROM event_ids WHERE event_id = $1")
        .bind(becomes_duplicate.event_id.as_uuid())
        .fetch_all(&bench.pool)
        .await
        .unwrap();
    assert_eq!(owner, [(last.partition, last.offset)]);
    // An id that another writer finds to be a duplicate does not own a key: later duplicates of that key would have no
    // original.
    let (named, later) = (keyed(org, Dedup::dedup_id("free", b"")), keyed(org, Dedup::dedup_id("free", b"")));
    let mut other_writer = runtime::postgres::begin(&bench.pool).await.unwrap();
    let decide = sqlx::query(
        "INSERT INTO event_ids (org_id, event_id, canonical_id, log_epoch, log_partition, log_offset, newest_at)
         VALUES ($1, $2, $3, 1, 2, 8, now())",
    );
    let decide = decide.bind(org.as_uuid()).bind(named.event_id.as_uuid()).bind(original.event_id.as_uuid());
    decide.execute(&mut *other_writer).await.unwrap();
    bench.event(&named).await;
    eventually(PATIENCE, "the writer that takes the key waits for the writer that decides", || async {
        (bench.count(blocked).await > 0).then_some(())
    })
    .await;
    other_writer.commit().await.unwrap();
    bench.event(&later).await;
    bench.all_applied().await;
    assert_eq!(rows(&bench).await, [original.event_id, later.event_id, becomes_event.event_id]);
    projecting.stop().await;
}
