//! Reading the log again: the same log and the same duplicate decisions give the same view, however often, and nothing comes back
//! that had gone.

use std::time::Duration;

use materializer::rebuild::{self, Difference, RebuildConfig, RebuildError, Rebuilt, Replayed};
use platform::kafka::KafkaConfig;
use schemas::ids::{EndpointId, EventId, OrgId};
use schemas::records::{Dedup, DeliveryAttempt, DeliveryOutcome, Event};
use schemas::unix_time::from_millis;
use time::OffsetDateTime;

use crate::projector::deliveries::attempt;
use crate::projector::harness::{Bench, Projecting, event, keyed, stranger};
use crate::projector::retention::append_to;

const REBUILD: RebuildConfig =
    RebuildConfig { from: None, retention_days: 30, accept_differences: false, restart: false, dry_run: false };

const NONE: &[Difference] = &[];

async fn rebuild(bench: &Bench, config: RebuildConfig) -> Rebuilt {
    rebuild::rebuild(bench.pool.clone(), bench.kafka.clone(), config, |_| {}).await.unwrap()
}

async fn replay(bench: &Bench) -> Replayed {
    let from = OffsetDateTime::now_utc() - time::Duration::days(1);
    rebuild::replay(bench.pool.clone(), bench.kafka.clone(), (from, None), 30, |_| {}).await.unwrap()
}

/// Everything that is shown, as text.
async fn shown(bench: &Bench) -> Vec<String> {
    let statement = "SELECT t::text FROM view.events t UNION ALL SELECT t::text FROM view.deliveries t
                     UNION ALL SELECT t::text FROM view.delivery_attempts t UNION ALL SELECT t::text FROM rejected t ORDER BY 1";
    sqlx::query_scalar(statement).fetch_all(&bench.pool).await.unwrap()
}

/// A log with something of everything: plain events, keyed ones and their repeats, one id in two partitions, acks
/// before and after their events, attempts, garbage, and an organization that is erased afterwards.
async fn write_a_log(bench: &Bench) -> (OrgId, Projecting) {
    let (org, erased) = (bench.organization(0).await, bench.organization(1).await);
    let projecting = bench.project();
    let plain = bench.flow(&[org, erased], 20).await;
    let (first, repeat) = (keyed(org, Dedup::dedup_id("k", b"")), keyed(org, Dedup::dedup_id("k", b"")));
    bench.event(&first).await;
    bench.event(&repeat).await;
    // Keys of one organization over two partitions: which of the two is the original is up to who is first, and stays.
    let far = keyed(org, Dedup::dedup_id("k", b""));
    append_to(bench, 2, &far).await;
    let twins = [event(org), Event { event_id: EventId::of_place("t", 0, 0, 0), ..event(org) }];
    for (twin, [first, second]) in twins.iter().zip([[1, 2], [2, 1]]) {
        append_to(bench, first, twin).await;
        bench.passed().await;
        append_to(bench, second, twin).await;
    }
    bench.json_event(org, r#"{"event_type": "a", "payload": 1}"#).await;
    bench.json_event(org, "garbage").await;
    let early = event(org);
    bench.ack(org, early.event_id).await;
    bench.passed().await;
    bench.event(&early).await;
    for id in [plain[0], repeat.event_id, far.event_id] {
        bench.ack(org, id).await;
    }
    let endpoint = EndpointId::generate();
    bench.attempt(&attempt(org, plain[2], endpoint, 1, DeliveryOutcome::Retrying)).await;
    bench.attempt(&attempt(org, plain[2], endpoint, 2, DeliveryOutcome::Delivered)).await;
    bench.attempt(&attempt(org, plain[4], endpoint, 1, DeliveryOutcome::Failed)).await;
    bench.passed().await;
    sqlx::query("UPDATE organizations SET status = 'erased' WHERE id = $1")
        .bind(erased.as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
    sqlx::query("DELETE FROM view.events WHERE org_id = $1").bind(erased.as_uuid()).execute(&bench.pool).await.unwrap();
    (org, projecting)
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilt_twice_and_replayed_twice_the_view_is_the_same_and_goes_on_being_written() {
    let bench = Bench::start().await;
    let (org, projecting) = write_a_log(&bench).await;
    let before = shown(&bench).await;
    assert!(before.len() > 15);
    for _ in 0..2 {
        let done = rebuild(&bench, REBUILD).await;
        assert_eq!((done.differences.as_slice(), done.switched, done.carried), (NONE, true, 0));
        assert!(done.records > 30);
        assert_eq!(shown(&bench).await, before);
    }
    for _ in 0..2 {
        assert!(!replay(&bench).await.cut_short);
        assert_eq!(shown(&bench).await, before);
    }
    assert_eq!(bench.count("SELECT count(*) FROM consumer_positions WHERE consumer <> 'materializer'").await, 0);
    // The writer was overtaken and has found the new tables; so has who reads through a contract.
    bench.flow(&[org], 5).await;
    bench.passed().await;
    assert_eq!(
        bench.count("SELECT count(*) FROM contract.events").await,
        bench.count("SELECT count(*) FROM view.events").await
    );
    assert_eq!(bench.in_log_order().await.len() + 5, before.len() - bench_rest(&bench).await + 5 + 5);
    assert_eq!(
        bench.count("SELECT count(*) FROM pg_namespace WHERE nspname IN ('view_next', 'view_retired')").await,
        0
    );
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_an_event_is_left_by_its_twin_and_by_a_duplicate_of_it() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let (twin, original) = (event(org), keyed(org, Dedup::dedup_id("k", b"")));
    let repeat = keyed(org, Dedup::dedup_id("k", b""));
    append_to(&bench, 2, &twin).await;
    for event in [&original, &repeat] {
        bench.event(event).await;
    }
    bench.passed().await;
    let whole = bench.in_log_order().await;
    // As a rebuild that has not read these records yet has it.
    sqlx::query("DELETE FROM view.events").execute(&bench.pool).await.unwrap();
    for id in [twin.event_id, repeat.event_id] {
        bench.ack(org, id).await;
    }
    bench.attempt(&attempt(org, twin.event_id, EndpointId::generate(), 1, DeliveryOutcome::Delivered)).await;
    bench.passed().await;
    append_to(&bench, 0, &twin).await;
    append_to(&bench, 0, &repeat).await;
    bench.passed().await;
    assert_eq!(bench.count("SELECT count(*) FROM view.events").await, 0);
    assert_eq!(bench.count("SELECT count(*) FROM view.pending_effects").await, 3);

    replay(&bench).await;
    assert_eq!(bench.in_log_order().await, whole);
    let done =
        "SELECT count(*) FROM view.events WHERE acknowledged_at IS NOT NULL AND (attempts, delivery_status) = ($1, $2)";
    for (attempts, status) in [(1, "delivered"), (0, "pending")] {
        let found: i64 = sqlx::query_scalar(done).bind(attempts).bind(status).fetch_one(&bench.pool).await.unwrap();
        assert_eq!(found, 1, "{status}");
    }
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_replay_noted_down_is_abandoned_with_the_rest() {
    let bench = Bench::start().await;
    let left = "SELECT count(*) FROM consumer_positions";
    let sql = "INSERT INTO consumer_positions (consumer, topic, partition, next_offset) VALUES ($1, 't', 0, 7)";
    sqlx::query(sql).bind(rebuild::REPLAY).execute(&bench.pool).await.unwrap();
    assert_eq!(bench.count(left).await, 1);
    rebuild::abandon(&bench.pool).await.unwrap();
    assert_eq!(bench.count(left).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_ends_between_two_tellings_of_an_attempt_leaves_the_second_one() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let (sent, endpoint) = (event(org), EndpointId::generate());
    bench.event(&sent).await;
    bench.attempt(&attempt(org, sent.event_id, endpoint, 1, DeliveryOutcome::Retrying)).await;
    // Also as a dispatcher tells that was halted in the middle: what it began first it tells of last.
    let shifts = [7_000_000, -7_000_000];
    let alike = shifts.map(|_| attempt(org, sent.event_id, EndpointId::generate(), 1, DeliveryOutcome::Delivered));
    bench.attempt(&alike[0]).await;
    let first = bench.attempt(&alike[1]).await;
    // Later by its place on the log alone: its clock was behind.
    let mut again = attempt(org, sent.event_id, endpoint, 1, DeliveryOutcome::Delivered);
    again.started_at -= 5_000_000;
    let between = loop {
        let passed = bench.event(&event(org)).await.timestamp_ms.unwrap();
        if passed > first.timestamp_ms.unwrap() {
            break passed;
        }
    };
    bench.attempt(&again).await;
    for (first, shift) in alike.into_iter().zip(shifts) {
        bench.attempt(&DeliveryAttempt { started_at: first.started_at + shift, latency_ms: 5, ..first }).await;
    }
    bench.passed().await;
    let before = shown(&bench).await;
    assert_eq!(bench.row(org, sent.event_id).await.unwrap().delivery_status, "delivered");
    let to = OffsetDateTime::from_unix_timestamp_nanos(i128::from(between) * 1_000_000).unwrap();
    let times = (to - time::Duration::hours(1), Some(to));
    assert!(rebuild::replay(bench.pool.clone(), bench.kafka.clone(), times, 30, |_| {}).await.unwrap().records > 0);
    assert_eq!(shown(&bench).await, before);
    projecting.stop().await;
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_other_topics_than_the_views_or_a_time_to_come_is_refused_and_leaves_nothing() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    bench.flow(&[org], 3).await;
    bench.passed().await;
    let before = shown(&bench).await;
    let (elsewhere, hour) = (KafkaConfig::new(&bench.kafka.brokers, "elsewhere."), time::Duration::hours(1));
    let accepting = RebuildConfig { accept_differences: true, ..REBUILD };
    let refused = rebuild::rebuild(bench.pool.clone(), elsewhere.clone(), accepting, |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("is the topic prefix right?"), "{refused}");
    let now = OffsetDateTime::now_utc();
    let to_come = RebuildConfig { from: Some(now + hour), ..REBUILD };
    let refused = rebuild::rebuild(bench.pool.clone(), bench.kafka.clone(), to_come, |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("in the future"), "{refused}");
    for (kafka, times) in [
        (elsewhere, (now - hour, None)),
        (bench.kafka.clone(), (now + hour, None)),
        (bench.kafka.clone(), (now, Some(now - hour))),
    ] {
        assert!(matches!(
            rebuild::replay(bench.pool.clone(), kafka, times, 30, |_| {}).await,
            Err(RebuildError::Unsuitable(_))
        ));
    }
    assert_eq!(
        bench.count("SELECT count(*) FROM pg_namespace WHERE nspname IN ('view_next', 'view_retired')").await,
        0
    );
    assert_eq!(shown(&bench).await, before);
    projecting.stop().await;
}

/// Rows of [`shown`] that are no events.
async fn bench_rest(bench: &Bench) -> usize {
    let statement = "SELECT (SELECT count(*) FROM view.deliveries) + (SELECT count(*) FROM view.delivery_attempts) + (SELECT count(*) FROM rejected)";
    usize::try_from(bench.count(statement).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_differs_is_told_and_replaced_only_when_that_is_accepted() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let ids = bench.flow(&[org], 30).await;
    bench.passed().await;
    let whole = shown(&bench).await;
    sqlx::query("DELETE FROM view.events WHERE event_id = $1")
        .bind(ids[3].as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
    let damaged = shown(&bench).await;
    let expected = [Difference { organization: org, table: "events", live: 29, rebuilt: 30 }];

    let told = rebuild(&bench, RebuildConfig { dry_run: true, ..REBUILD }).await;
    assert_eq!((told.differences.as_slice(), told.switched), (&expected[..], false));
    assert_eq!(
        bench.count("SELECT count(*) FROM pg_namespace WHERE nspname = 'view_next'").await,
        0,
        "nothing is left of it"
    );
    let told = rebuild(&bench, REBUILD).await;
    assert_eq!((told.differences.as_slice(), told.switched, told.records > 0), (&expected[..], false, true));
    assert_eq!(shown(&bench).await, damaged);
    let done = rebuild(&bench, RebuildConfig { accept_differences: true, ..REBUILD }).await;
    assert_eq!((done.switched, done.records), (true, 0), "it goes on where it was");
    assert_eq!(shown(&bench).await, whole);

    sqlx::query("DELETE FROM view.events WHERE event_id = $1")
        .bind(ids[3].as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
    replay(&bench).await;
    assert_eq!(shown(&bench).await, whole, "a replay puts back what is missing");
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_differs_in_any_column_is_told() {
    let bench = Bench::start().await;
    let projecting = bench.project();
    let columns = [
        "event_type = 'b'",
        "status = 'failed'",
        "attempts = 7",
        "last_started_at = now()",
        "last_status_code = 500",
        "last_error = 'none'",
        "next_attempt_at = now()",
        "created_at = now()",
    ];
    let mut expected = Vec::new();
    for column in columns {
        let org = bench.organization(0).await;
        let sent = event(org);
        bench.event(&sent).await;
        bench.attempt(&attempt(org, sent.event_id, EndpointId::generate(), 1, DeliveryOutcome::Retrying)).await;
        bench.passed().await;
        let statement = sqlx::AssertSqlSafe(format!("UPDATE view.deliveries SET {column} WHERE org_id = $1"));
        sqlx::query(statement).bind(org.as_uuid()).execute(&bench.pool).await.unwrap();
        expected.push(Difference { organization: org, table: "deliveries", live: 1, rebuilt: 1 });
    }
    expected.sort_by_key(|difference| difference.organization);
    let told = rebuild(&bench, RebuildConfig { dry_run: true, ..REBUILD }).await;
    assert_eq!(told.differences, expected);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_under_load_ends_with_every_event_shown_once() {
    let bench = Bench::start().await;
    let orgs = [bench.organization(0).await, bench.organization(1).await, bench.organization(2).await];
    let projecting = bench.project();
    bench.flow(&orgs, 300).await;
    let flowing = bench.flowing(&orgs, 3_000);
    let mut switched = 0;
    while !flowing.is_finished() || switched == 0 {
        let done = rebuild(&bench, REBUILD).await;
        assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
        switched += 1;
    }
    let ids = flowing.await.unwrap();
    bench.passed().await;
    let shown: std::collections::BTreeSet<EventId> =
        bench.in_log_order().await.into_iter().map(|(.., id)| id).collect();
    assert_eq!(bench.in_log_order().await.len(), 3_300);
    assert!(ids.iter().all(|id| shown.contains(id)));
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_no_longer_tells_is_carried_over_with_its_acks_and_attempts() {
    let bench = Bench::start().await;
    let (org, projecting) = write_a_log(&bench).await;
    // Events that the log goes on telling of, whose attempts and acks it does not.
    for _ in 0..50 {
        let late = event(org);
        bench.event(&late).await;
        bench.attempt(&attempt(org, late.event_id, EndpointId::generate(), 1, DeliveryOutcome::Delivered)).await;
        bench.ack(org, late.event_id).await;
    }
    bench.passed().await;
    let before = shown(&bench).await;
    // As retention does: the acks and deliveries go first, which is not as it should be, and then half of the events.
    for (topic, part) in [(&bench.topics().acks, 1), (&bench.topics().deliveries, 1), (&bench.topics().events, 2)] {
        for partition in 0..3 {
            let position = bench.position(topic, partition).await.unwrap();
            truncate(&bench, topic, partition, position / part).await;
        }
    }
    for _ in 0..2 {
        let done = rebuild(&bench, REBUILD).await;
        assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
        assert!(done.carried > 0);
        assert_eq!(shown(&bench).await, before);
    }
    assert!(replay(&bench).await.cut_short);
    assert_eq!(shown(&bench).await, before);
    let from = OffsetDateTime::now_utc();
    let done = rebuild(&bench, RebuildConfig { from: Some(from), ..REBUILD }).await;
    assert!(
        done.switched && done.records == 0 && done.carried >= u64::try_from(before.len()).unwrap() - 3,
        "everything was copied"
    );
    assert_eq!(shown(&bench).await, before);
    bench.flow(&[org], 2).await;
    bench.passed().await;
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_that_the_log_no_longer_tells_is_carried_over_also_where_its_event_lies_in_another_partition() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    // As a native producer writes that chooses its partitions itself; acknowledged over HTTP, so in the partition of
    // the organization.
    let elsewhere = event(org);
    append_to(&bench, 1, &elsewhere).await;
    bench.event(&event(org)).await;
    bench.ack(org, elsewhere.event_id).await;
    bench.passed().await;
    let before = shown(&bench).await;
    assert!(bench.row(org, elsewhere.event_id).await.unwrap().acknowledged_at.is_some());
    truncate(&bench, &bench.topics().acks, 0, 1).await;
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
    assert_eq!(shown(&bench).await, before);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_of_an_older_log_go_on_waiting_for_their_events_in_the_rebuilt_view() {
    let bench = Bench::start().await;
    let orgs = [bench.organization(0).await, bench.organization(1).await];
    let projecting = bench.project();
    // The new log of the acks has a record in one partition, and none in the other.
    bench.ack(orgs[0], EventId::generate()).await;
    bench.flow(&orgs, 2).await;
    bench.passed().await;
    assert_eq!(bench.position(&bench.topics().acks, 1).await, Some(0));
    projecting.stop().await;
    // As after the topic was made anew, and its positions were mended.
    sqlx::query("UPDATE consumer_positions SET log_epoch = 2 WHERE topic = $1")
        .bind(&bench.topics().acks)
        .execute(&bench.pool)
        .await
        .unwrap();
    let awaited = orgs.map(event);
    for (partition, awaited) in (0_i32..).zip(&awaited) {
        sqlx::query(
            "INSERT INTO view.pending_effects (org_id, event_id, effect, log_partition, log_offset, appended_at)
             VALUES ($1, $2, 'ack', $3, 5, now() - interval '1 day')",
        )
        .bind(awaited.org_id.as_uuid())
        .bind(awaited.event_id.as_uuid())
        .bind(partition)
        .execute(&bench.pool)
        .await
        .unwrap();
    }
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
    let projecting = bench.project();
    for awaited in &awaited {
        bench.event(awaited).await;
    }
    bench.passed().await;
    for awaited in &awaited {
        assert!(bench.row(awaited.org_id, awaited.event_id).await.unwrap().acknowledged_at.is_some());
    }
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_live_view_still_has_below_the_floor_is_no_difference_and_its_readers_are_told_of_it() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let below = event(org);
    bench.event(&below).await;
    let sent = attempt(org, below.event_id, EndpointId::generate(), 1, DeliveryOutcome::Delivered);
    let last = bench.attempt(&sent).await.timestamp_ms.unwrap();
    let above = event(org);
    while bench.event(&event(org)).await.timestamp_ms.unwrap() <= last {}
    bench.event(&above).await;
    bench.passed().await;
    projecting.stop().await;
    // As when the retention is lowered: the floor is on the grid of the new parts, and lies within an old one.
    sqlx::query("UPDATE retention_floor SET floor = $1")
        .bind(from_millis(last + 1))
        .execute(&bench.pool)
        .await
        .unwrap();
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
    assert_eq!(bench.row(org, below.event_id).await, None);
    assert!(bench.row(org, above.event_id).await.is_some());
    assert_eq!(bench.count("SELECT count(*) FROM view.deliveries").await, 0);
    let told =
        "SELECT count(*) FROM retention_gaps WHERE log_partition = 0 AND log_epoch = 1 AND accepted_at < (SELECT floor FROM retention_floor)
                       AND log_offset + 1 = (SELECT min(log_offset) FROM view.events)";
    assert_eq!(bench.count(told).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_began_below_the_floor_are_no_difference_whether_they_went_on_or_lost_all_attempts() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let (spanning, over, endpoint) = (event(org), event(org), EndpointId::generate());
    for event in [&spanning, &over] {
        bench.event(event).await;
    }
    bench.attempt(&attempt(org, spanning.event_id, endpoint, 1, DeliveryOutcome::Retrying)).await;
    let last = bench
        .attempt(&attempt(org, over.event_id, endpoint, 1, DeliveryOutcome::Delivered))
        .await
        .timestamp_ms
        .unwrap();
    while bench.event(&event(org)).await.timestamp_ms.unwrap() <= last {}
    bench.attempt(&attempt(org, spanning.event_id, endpoint, 2, DeliveryOutcome::Delivered)).await;
    bench.passed().await;
    projecting.stop().await;
    sqlx::query("UPDATE retention_floor SET floor = $1")
        .bind(from_millis(last + 1))
        .execute(&bench.pool)
        .await
        .unwrap();
    // As when their part has gone, and no sweep has come to what is left of the second one.
    sqlx::query("DELETE FROM view.delivery_attempts WHERE appended_at < (SELECT floor FROM retention_floor)")
        .execute(&bench.pool)
        .await
        .unwrap();
    let begun = "SELECT (extract(epoch FROM min(created_at)) * 1000)::bigint FROM view.deliveries";
    let before = bench.count(begun).await;
    assert_eq!(bench.count("SELECT count(*) FROM view.deliveries").await, 2);
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
    assert_eq!(bench.count("SELECT count(*) FROM view.deliveries").await, 1);
    assert_eq!(bench.count(begun).await, before, "it began when it began");
}

/// Takes the records before `offset` away, as an operator or retention does.
async fn truncate(bench: &Bench, topic: &str, partition: i32, offset: i64) {
    use rdkafka::admin::{AdminClient, AdminOptions};
    use rdkafka::client::DefaultClientContext;
    use rdkafka::{ClientConfig, Offset, TopicPartitionList};
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &bench.kafka.brokers).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    for element in admin.delete_records(&list, &options).await.unwrap().elements() {
        element.error().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_stays_refused_by_a_replay_and_a_rebuild_also_when_it_could_be_read_by_then() {
    let bench = Bench::start().await;
    let (org, late) = (bench.organization(0).await, stranger(1));
    let projecting = bench.project();
    bench.flow(&[org], 5).await;
    for _ in 0..2 {
        bench.event(&keyed(late, Dedup::dedup_id("k", b""))).await;
    }
    bench.passed().await;
    assert_eq!(bench.dead_letters().await.len(), 2);
    sqlx::query("INSERT INTO organizations (id, name) VALUES ($1, 'Late')")
        .bind(late.as_uuid())
        .execute(&bench.pool)
        .await
        .unwrap();
    // One that is accepted: the organization is known from now on.
    bench.flow(&[late], 1).await;
    bench.passed().await;
    let before = shown(&bench).await;
    replay(&bench).await;
    assert_eq!(shown(&bench).await, before);
    let done = rebuild(&bench, REBUILD).await;
    assert_eq!((done.differences.as_slice(), done.switched), (NONE, true));
    assert_eq!(shown(&bench).await, before);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_a_killed_rebuild_left_are_in_nobodys_way() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    bench.flow(&[org], 5).await;
    bench.passed().await;
    let left = "CREATE SCHEMA view_retired; CREATE TABLE view_retired.events (org_id uuid)";
    let retired = "SELECT count(*) FROM pg_namespace WHERE nspname = 'view_retired'";
    sqlx::raw_sql(left).execute(&bench.pool).await.unwrap();
    assert!(rebuild(&bench, REBUILD).await.switched);
    assert_eq!(bench.count(retired).await, 0);
    sqlx::raw_sql(left).execute(&bench.pool).await.unwrap();
    rebuild::abandon(&bench.pool).await.unwrap();
    assert_eq!(bench.count(retired).await, 0);
    projecting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_used_again_after_its_window_and_what_is_below_the_floor_stay_as_they_are() {
    let bench = Bench::start().await;
    let org = bench.organization(0).await;
    let projecting = bench.project();
    let dedup = Dedup { window_seconds: 1, ..Dedup::dedup_id("k", b"") };
    let mut used = Vec::new();
    for _ in 0..3 {
        let again = keyed(org, dedup.clone());
        let at = bench.event(&again).await.timestamp_ms.unwrap();
        used.push(again.event_id);
        // Until the log's own clock has passed the window.
        while bench.event(&event(org)).await.timestamp_ms.unwrap() <= at + 1000 {}
    }
    bench.passed().await;
    let rows = bench.in_log_order().await;
    assert!(
        used.iter().all(|id| rows.iter().any(|(.., shown)| shown == id)),
        "each use of the key is an event of its own"
    );
    let before = shown(&bench).await;
    assert!(rebuild(&bench, REBUILD).await.switched);
    replay(&bench).await;
    assert_eq!(shown(&bench).await, before);
    projecting.stop().await;
    // All of it expires: neither brings it back, although the log has it.
    assert!(
        bench
            .count(
                "SELECT count(*) FROM (SELECT view_drop_time_partition(starts_at) FROM view.time_partitions) AS dropped"
            )
            .await
            > 0
    );
    replay(&bench).await;
    assert_eq!(bench.in_log_order().await.len(), 0);
    assert!(rebuild(&bench, REBUILD).await.switched);
    assert_eq!(bench.in_log_order().await.len(), 0);
}
