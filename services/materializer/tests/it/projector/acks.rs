//! Acknowledgements, in any order.

use std::time::Duration;

use materializer::projector::ProjectorConfig;
use schemas::codec::encode_ack;
use schemas::records::{Ack, Dedup};
use time::OffsetDateTime;

use super::harness::{Bench, JSON, PATIENCE, event, keyed, time_of};
use super::retention::append_record_at;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_ack_of_an_event_counts() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let (acked, open) = (event(org), event(org));
    bench.event(&acked).await;
    bench.event(&open).await;
    let projecting = bench.project();
    bench.all_applied().await;
    let first = bench.ack(org, acked.event_id).await;
    bench.all_applied().await;
    assert_eq!(bench.row(org, acked.event_id).await.unwrap().acknowledged_at, Some(time_of(&first)));
    bench.ack(org, acked.event_id).await;
    bench.all_applied().await;
    assert_eq!(
        bench.row(org, acked.event_id).await.unwrap().acknowledged_at,
        Some(time_of(&first)),
        "the first one stays"
    );
    assert_eq!(bench.row(org, open.event_id).await.unwrap().acknowledged_at, None);
    projecting.stop().await;
}

/// As when a topic got more partitions, and the newer partition is read first.
#[tokio::test(flavor = "multi_thread")]
async fn the_ack_appended_first_counts_when_read_last() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let (original, duplicate) = (keyed(org, Dedup::dedup_id("k", b"")), keyed(org, Dedup::dedup_id("k", b"")));
    let start = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let append_ack = async |partition, event_id, seconds| {
        let (key, value) = (org.to_string(), encode_ack(&Ack { org_id: org, event_id }).unwrap());
        let at = start - time::Duration::seconds(seconds);
        append_record_at(&bench, &bench.topics().acks, partition, (&key, &value), at).await;
    };
    let projecting = bench.project();
    bench.event(&original).await;
    // One ack waits for the duplicate that it names.
    append_ack(2, duplicate.event_id, 30).await;
    append_ack(1, original.event_id, 10).await;
    bench.all_applied().await;
    let acknowledged_at = async || bench.row(org, original.event_id).await.unwrap().acknowledged_at;
    assert_eq!(acknowledged_at().await, Some(start - time::Duration::seconds(10)));
    append_ack(0, original.event_id, 20).await;
    bench.all_applied().await;
    assert_eq!(acknowledged_at().await, Some(start - time::Duration::seconds(20)), "of two partitions");
    bench.event(&duplicate).await;
    bench.all_applied().await;
    assert_eq!(acknowledged_at().await, Some(start - time::Duration::seconds(30)), "of a pending effect");
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_read_before_their_event_are_applied_with_it() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let (late, later) = (event(org), event(org));
    let projecting = bench.project();
    let first = bench.ack(org, late.event_id).await;
    bench.ack(org, late.event_id).await;
    let both = format!(r#"{{"event_ids": ["{}", "{}"]}}"#, late.event_id, later.event_id);
    let both = bench.append(&bench.topics().acks, Some(org.to_string().as_bytes()), Some(both.as_bytes()), JSON).await;
    bench.all_applied().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.pending_effects").await, 4);
    bench.event(&late).await;
    bench.event(&later).await;
    bench.all_applied().await;
    assert_eq!(bench.row(org, late.event_id).await.unwrap().acknowledged_at, Some(time_of(&first)));
    assert_eq!(bench.row(org, later.event_id).await.unwrap().acknowledged_at, Some(time_of(&both)));
    assert_eq!(bench.count("SELECT count(*) FROM view.pending_effects").await, 0, "no effect is pending");
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_of_another_organizations_event_does_nothing() {
    let bench = Bench::start().await;
    let (owner, foreign) = (bench.organization(0).await, bench.organization(0).await);
    let (theirs, later) = (event(owner), event(owner));
    bench.event(&theirs).await;
    let projecting = bench.project();
    bench.all_applied().await;
    bench.ack(foreign, theirs.event_id).await;
    bench.ack(foreign, later.event_id).await;
    bench.all_applied().await;
    bench.event(&later).await;
    bench.all_applied().await;
    for id in [theirs.event_id, later.event_id] {
        assert_eq!(bench.row(owner, id).await.unwrap().acknowledged_at, None);
        assert_eq!(bench.row(foreign, id).await, None);
    }
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_duplicate_acknowledges_its_original() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();

    let pair = |key: &str| (keyed(org, Dedup::dedup_id(key, b"")), keyed(org, Dedup::dedup_id(key, b"")));
    let (original, duplicate) = pair("after");
    bench.event(&original).await;
    bench.event(&duplicate).await;
    bench.all_applied().await;
    let ack = bench.ack(org, duplicate.event_id).await;
    bench.all_applied().await;
    assert_eq!(bench.row(org, original.event_id).await.unwrap().acknowledged_at, Some(time_of(&ack)));

    let (original, duplicate) = pair("before");
    let ack = bench.ack(org, duplicate.event_id).await;
    bench.event(&original).await;
    bench.all_applied().await;
    assert_eq!(bench.row(org, original.event_id).await.unwrap().acknowledged_at, None);
    bench.event(&duplicate).await;
    bench.all_applied().await;
    assert_eq!(bench.row(org, original.event_id).await.unwrap().acknowledged_at, Some(time_of(&ack)));
    assert_eq!(bench.row(org, duplicate.event_id).await, None);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_effects_and_keys_no_longer_needed_are_swept() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    for age in ["8 days", "10 days"] {
        sqlx::query(
            "INSERT INTO view.pending_effects (org_id, event_id, effect, log_partition, log_offset, appended_at)
             VALUES ($1, gen_random_uuid(), 'ack', 0, 0, now() - $2::interval)",
        )
        .bind(org.as_uuid())
        .bind(age)
        .execute(&bench.pool)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO dedup_keys (org_id, kind, key, event_id, body_hash, accepted_at, expires_at)
             VALUES ($1, 'dedup_id', $2, gen_random_uuid(), '', now() - interval '20 days',
                     now() - $2::interval + interval '1 day')",
        )
        .bind(org.as_uuid())
        .bind(age)
        .execute(&bench.pool)
        .await
        .unwrap();
    }
    let projecting =
        bench.project_as(ProjectorConfig { sweep_interval: Duration::from_millis(20), ..ProjectorConfig::default() });
    let left = "SELECT (SELECT count(*) FROM view.pending_effects) + (SELECT count(*) FROM dedup_keys)";
    let swept = || async { (bench.count(left).await == 2).then_some(()) };
    devstack::testing::eventually(PATIENCE, "the old rows are swept", swept).await;
    let kept = "SELECT count(*) FROM view.pending_effects, dedup_keys
                WHERE appended_at > now() - interval '9 days' AND key = '8 days'";
    assert_eq!(bench.count(kept).await, 1);
    projecting.stop().await;
}
