//! Events of the log become rows of the view.

use schemas::records::{Dedup, Event};
use sqlx::Row as _;

use super::harness::{Bench, event, keyed, time_of};

#[tokio::test(flavor = "multi_thread")]
async fn events_appear_once_and_in_log_order() {
    let bench = Bench::start().await;
    let orgs = [
        bench.organization(0).await,
        bench.organization(0).await,
        bench.organization(1).await,
        bench.organization(2).await,
    ];
    let mut expected = Vec::new();
    // The first half is on the log before the projector starts, the second half comes while it runs.
    let mut projecting = None;
    for round in 0..20 {
        if round == 10 {
            projecting = Some(bench.project());
        }
        for org in orgs {
            let avro = event(org);
            let appended = bench.event(&avro).await;
            expected.push((appended.partition, appended.offset, avro.event_id));
            let (id, appended) = bench.json_event(org, &format!(r#"{{"type": "b", "data": {round}}}"#)).await;
            expected.push((appended.partition, appended.offset, id));
        }
    }
    bench.all_applied().await;
    expected.sort_unstable();
    assert_eq!(bench.in_log_order().await, expected);
    assert!(bench.dead_letters().await.is_empty());
    projecting.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_says_what_the_record_said_and_when_it_was_appended() {
    let bench = Bench::start().await;
    let org = bench.organization(1).await;
    let payload = "{\"b\" : 1.0, \"a\":\"\u{e4}\\u00e4\",\"a\": [ ]}";
    let complete = Event {
        payload: payload.to_owned(),
        occurred_at: Some(1_700_000_000_123_456),
        source: Some("shop".to_owned()),
        ordering_key: Some("cart 7".to_owned()),
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        ..keyed(org, Dedup::dedup_id("d 1", b"body"))
    };
    let appended = bench.event(&complete).await;
    let projecting = bench.project();
    bench.all_applied().await;
    let row = sqlx::query(
        "SELECT payload::text, (extract(epoch FROM occurred_at) * 1000000)::bigint AS occurred_us, source,
                ordering_key, metadata::text,
                dedup_id, event_type, log_epoch FROM view.events",
    )
    .fetch_one(&bench.pool)
    .await
    .unwrap();
    assert_eq!(row.get::<&str, _>("payload"), payload, "byte for byte");
    assert_eq!(row.get::<i64, _>("occurred_us"), 1_700_000_000_123_456);
    assert_eq!(
        ["source", "ordering_key", "metadata", "dedup_id", "event_type"].map(|column| row.get::<&str, _>(column)),
        ["shop", "cart 7", r#"{"k":"v"}"#, "d 1", "a"]
    );
    assert_eq!(row.get::<i32, _>("log_epoch"), 1);
    let row = bench.row(org, complete.event_id).await.unwrap();
    assert_eq!(
        (row.accepted_at, row.acknowledged_at, row.delivery_status.as_str()),
        (time_of(&appended), None, "pending")
    );
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_appended_twice_is_one_row_at_its_first_offset() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let (once, other) = (event(org), event(org));
    let first = bench.event(&once).await;
    bench.event(&once).await;
    let between = bench.event(&other).await;
    let projecting = bench.project();
    bench.all_applied().await;
    bench.event(&once).await;
    bench.all_applied().await;
    assert_eq!(bench.in_log_order().await, [(0, first.offset, once.event_id), (0, between.offset, other.event_id)]);
    assert!(bench.dead_letters().await.is_empty(), "PostgreSQL does not reject a duplicate");
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extreme_times_are_stored_to_the_microsecond() {
    use schemas::event_json::{MAX_TIME_MICROS, MIN_TIME_MICROS};
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let ends = [MIN_TIME_MICROS, -1, MAX_TIME_MICROS - 1, MAX_TIME_MICROS];
    for occurred_at in ends {
        bench.event(&Event { occurred_at: Some(occurred_at), ..event(org) }).await;
    }
    let projecting = bench.project();
    bench.all_applied().await;
    let stored: Vec<(time::OffsetDateTime,)> =
        sqlx::query_as("SELECT occurred_at FROM view.events ORDER BY log_offset").fetch_all(&bench.pool).await.unwrap();
    let micros: Vec<i128> = stored.iter().map(|(time,)| time.unix_timestamp_nanos() / 1000).collect();
    assert_eq!(micros, ends.map(i128::from));
    projecting.stop().await;
}
