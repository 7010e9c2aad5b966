//! Positions and their fence, on a real PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use kafka::fence::repair::{self, LogChange};
use kafka::fence::{self, Advance, CommitOutcome, Position, PositionsPoller, skip};
use kafka::log_identity::LogIdentity;
use runtime::postgres;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::database;

const TOPIC: &str = "events";

fn step(epoch: i64, expected: i64, next: i64) -> Advance {
    Advance { topic: Arc::from(TOPIC), partition: 0, epoch, expected, next, record_time_ms: Some(1_700_000_000_000) }
}

async fn advance(pool: &PgPool, step: Advance) -> bool {
    let mut transaction = postgres::begin(pool).await.unwrap();
    let moved = fence::advance(&mut transaction, "test", &[step]).await.unwrap();
    transaction.commit().await.unwrap();
    moved[0]
}

async fn claim(pool: &PgPool) -> fence::Claim {
    fence::claim(pool, "test", &Arc::from(TOPIC), None, &[(0, 5)]).await.unwrap().remove(0)
}

#[tokio::test]
async fn a_claim_continues_and_fences_the_previous_one() {
    let (database, pool) = database().await;
    let first = claim(&pool).await;
    assert_eq!((first.epoch, first.next_offset), (1, 5), "never read: from where the log begins");
    let record_time_ms = async || fence::record_time_ms(&pool, "test", TOPIC, 0).await.unwrap();
    assert_eq!(record_time_ms().await, None);
    assert!(advance(&pool, step(first.epoch, 5, 8)).await);
    assert_eq!(record_time_ms().await, Some(1_700_000_000_000));

    let second = claim(&pool).await;
    assert_eq!((second.epoch, second.next_offset), (2, 8));
    assert!(!advance(&pool, step(first.epoch, 8, 9)).await, "the overtaken writer must match no row");
    assert!(advance(&pool, step(second.epoch, 8, 9)).await);
    let passed_no_record = Advance { record_time_ms: None, ..step(second.epoch, 9, 10) };
    assert!(advance(&pool, passed_no_record).await);
    assert_eq!(record_time_ms().await, Some(1_700_000_000_000), "the record before the position");
    drop((pool, database));
}

#[tokio::test]
async fn commit_outcomes_are_committed_retry_or_fenced() {
    let (database, pool) = database().await;
    let claimed = claim(&pool).await;
    let flush = step(claimed.epoch, 5, 8);
    assert_eq!(
        fence::commit_outcomes(&pool, "test", std::slice::from_ref(&flush)).await.unwrap(),
        vec![CommitOutcome::Retry]
    );
    assert!(advance(&pool, flush.clone()).await);
    assert_eq!(
        fence::commit_outcomes(&pool, "test", std::slice::from_ref(&flush)).await.unwrap(),
        vec![CommitOutcome::Committed]
    );
    claim(&pool).await;
    assert_eq!(
        fence::commit_outcomes(&pool, "test", std::slice::from_ref(&flush)).await.unwrap(),
        vec![CommitOutcome::Fenced]
    );
    drop((pool, database));
}

#[tokio::test]
async fn a_claim_waits_for_the_open_transaction_of_the_one_before() {
    let (database, pool) = database().await;
    let first = claim(&pool).await;
    let mut zombie = postgres::begin(&pool).await.unwrap();
    assert_eq!(fence::advance(&mut zombie, "test", &[step(first.epoch, 5, 8)]).await.unwrap(), vec![true]);
    let claiming = tokio::spawn({
        let pool = pool.clone();
        async move { claim(&pool).await }
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    devstack::testing::eventually(Duration::from_secs(10), "the claim waits for a lock", || async {
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&pool).await.unwrap();
        (count > 0).then_some(())
    })
    .await;
    zombie.commit().await.unwrap();
    assert_eq!(claiming.await.unwrap().next_offset, 8, "what the open transaction wrote must be seen");
    drop((pool, database));
}

async fn reached(watch: &PositionsPoller, next_offset: i64, deadline: Duration) -> bool {
    let is_reached = |position: Position| position.next_offset >= next_offset;
    watch.wait_until(deadline, |positions| positions.get(TOPIC, 0).is_some_and(is_reached)).await
}

#[tokio::test]
async fn the_poller_sees_a_commit_soon_and_stops_at_its_deadline() {
    let (database, pool) = database().await;
    let claimed = claim(&pool).await;
    let watch = PositionsPoller::new(pool.clone(), "test");
    assert!(reached(&watch, 5, Duration::from_secs(10)).await);
    assert!(!reached(&watch, 6, Duration::from_millis(50)).await);
    let waiting = tokio::spawn({
        let watch = watch.clone();
        async move { reached(&watch, 8, Duration::from_secs(10)).await }
    });
    assert!(advance(&pool, step(claimed.epoch, 5, 8)).await);
    assert!(waiting.await.unwrap());
    drop((pool, database));
}

#[tokio::test]
async fn a_repair_in_a_new_log_fences_every_consumer() {
    let (database, pool) = database().await;
    let topic: Arc<str> = Arc::from(TOPIC);
    let mine = claim(&pool).await;
    assert!(advance(&pool, step(mine.epoch, 5, 8)).await);
    fence::claim(&pool, "other", &topic, None, &[(0, 7), (1, 3)]).await.unwrap();
    let stored = repair::positions(&pool).await.unwrap();
    let seen = |consumer: &str| stored.iter().find(|one| one.consumer == consumer && one.partition == 0).unwrap();
    assert_eq!(repair::repair(&pool, TOPIC, 0, &[seen("test")], 20, LogChange::NewLog, None).await.unwrap(), Some(2));
    assert_eq!(
        repair::repair(&pool, TOPIC, 0, &[seen("test")], 20, LogChange::NewLog, None).await.unwrap(),
        None,
        "it is not where it was seen"
    );

    assert!(!advance(&pool, step(mine.epoch, 8, 9)).await && !advance(&pool, step(mine.epoch, 20, 21)).await, "fenced");
    let again = claim(&pool).await;
    assert_eq!((again.epoch, again.log_epoch, again.next_offset), (3, 2, 20));
    assert_eq!(fence::record_time_ms(&pool, "test", TOPIC, 0).await.unwrap(), None);
    let others = fence::claim(&pool, "other", &topic, None, &[(0, 0), (1, 0)]).await.unwrap();
    let of = |partition: i32| others.iter().find(|claim| claim.partition == partition).unwrap();
    assert_eq!((of(0).epoch, of(0).log_epoch, of(0).next_offset), (3, 2, 7), "it stays, in the new log epoch");
    assert_eq!((of(1).epoch, of(1).log_epoch, of(1).next_offset), (2, 1, 3), "another partition is left alone");
    let late = fence::claim(&pool, "late", &topic, None, &[(0, 20)]).await.unwrap();
    assert_eq!(late[0].log_epoch, 2, "who comes later is in the same log");
    drop((pool, database));
}

#[tokio::test]
async fn a_repair_in_the_same_log_keeps_its_epoch() {
    let (database, pool) = database().await;
    let topic: Arc<str> = Arc::from(TOPIC);
    let mine = claim(&pool).await;
    let others = fence::claim(&pool, "other", &topic, None, &[(0, 7)]).await.unwrap();
    let stored = repair::positions(&pool).await.unwrap();
    let seen = stored.iter().find(|one| one.consumer == "test" && one.partition == 0).unwrap();
    assert_eq!(repair::repair(&pool, TOPIC, 0, &[seen], 20, LogChange::SameLog, None).await.unwrap(), Some(1));
    assert!(!advance(&pool, step(mine.epoch, 5, 8)).await && !advance(&pool, step(mine.epoch, 20, 21)).await, "fenced");
    let current = fence::current_positions(&pool, "other").await.unwrap();
    assert_eq!(current, [(TOPIC.to_owned(), 0, others[0].epoch, 7)], "its claim is not changed");
    let again = claim(&pool).await;
    assert_eq!((again.epoch, again.log_epoch, again.next_offset), (3, 1, 20));
    drop((pool, database));
}

#[tokio::test]
async fn a_position_keeps_its_log_until_it_is_repaired() {
    let (database, pool) = database().await;
    let topic: Arc<str> = Arc::from(TOPIC);
    let (first, other) = (Some(Uuid::from_u128(1)), Some(Uuid::from_u128(2)));
    let identity = async || fence::log_identities(&pool, "test", TOPIC).await.unwrap()[&0];
    claim(&pool).await;
    assert_eq!(identity().await, LogIdentity::default(), "nothing is stored");
    let claimed = fence::claim(&pool, "test", &topic, first, &[(0, 5)]).await.unwrap().remove(0);
    let again = fence::claim(&pool, "test", &topic, other, &[(0, 5)]).await.unwrap().remove(0);
    assert_eq!(identity().await, LogIdentity { topic_id: first, leader_epoch: None }, "no claim replaces an id");
    let read = |epoch, leader_epoch| [(epoch, topic.clone(), 0, Some(leader_epoch))];
    fence::store_leader_epochs(&pool, "test", &read(claimed.epoch, 4)).await.unwrap();
    assert_eq!(identity().await.leader_epoch, None, "an overtaken instance stores nothing");
    fence::store_leader_epochs(&pool, "test", &read(again.epoch, 5)).await.unwrap();
    assert_eq!(identity().await, LogIdentity { topic_id: first, leader_epoch: Some(5) });
    let seen = repair::positions(&pool).await.unwrap();
    assert_eq!(seen[0].identity, identity().await);
    repair::repair(&pool, TOPIC, 0, &[&seen[0]], 5, LogChange::SameLog, other).await.unwrap().unwrap();
    assert_eq!(identity().await, LogIdentity { topic_id: other, leader_epoch: None }, "the operator accepts the log");
    let again = fence::claim(&pool, "test", &topic, None, &[(0, 5)]).await.unwrap().remove(0);
    fence::store_leader_epochs(&pool, "test", &read(again.epoch, 6)).await.unwrap();
    let seen = repair::positions(&pool).await.unwrap();
    assert!(skip::skip(&pool, &[&seen[0]], 9).await.unwrap());
    let skipped = LogIdentity { topic_id: other, leader_epoch: None };
    assert_eq!(identity().await, skipped, "the leader epoch of the skipped records is unknown");
    drop((pool, database));
}

#[tokio::test]
async fn a_topic_id_that_was_not_known_is_stored_later() {
    let (database, pool) = database().await;
    let topic: Arc<str> = Arc::from(TOPIC);
    let (first, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    fence::claim(&pool, "test", &topic, Some(first), &[(0, 5)]).await.unwrap();
    fence::claim(&pool, "test", &topic, None, &[(0, 5), (1, 5)]).await.unwrap();
    fence::store_topic_id(&pool, "test", TOPIC, other).await.unwrap();
    let stored = fence::log_identities(&pool, "test", TOPIC).await.unwrap();
    let ids: Vec<_> = stored.values().map(|identity| identity.topic_id).collect();
    assert_eq!(ids, [Some(first), Some(other)], "only a position without an id gets one");
    drop((pool, database));
}

#[tokio::test]
async fn the_poller_compares_log_epochs() {
    let (database, pool) = database().await;
    let claimed = claim(&pool).await;
    assert!(advance(&pool, step(claimed.epoch, 5, 8)).await);
    let (watch, short, long) =
        (PositionsPoller::new(pool.clone(), "test"), Duration::from_millis(50), Duration::from_secs(10));
    assert!(watch.wait_for_offset(1, TOPIC, 0, 8, long).await && !watch.wait_for_offset(2, TOPIC, 0, 3, short).await);
    let stored = repair::positions(&pool).await.unwrap();
    assert_eq!(repair::repair(&pool, TOPIC, 0, &[&stored[0]], 0, LogChange::NewLog, None).await.unwrap(), Some(2));
    devstack::testing::eventually(long, "the positions are read again", || async {
        (!reached(&watch, 1, short).await && !watch.wait_for_offset(1, TOPIC, 0, 1, short).await).then_some(())
    })
    .await;
    assert!(watch.wait_for_offset(2, TOPIC, 0, 0, long).await);
    drop((pool, database));
}

#[tokio::test]
async fn migrating_twice_at_once_is_migrating_once() {
    let database = devstack::testing::shared().await.database().await;
    let pool = postgres::connect(&postgres::PostgresConfig::new(&database.url)).unwrap();
    let (one, other) = tokio::join!(postgres::migrate(&pool), postgres::migrate(&pool));
    one.unwrap();
    other.unwrap();
    postgres::migrate(&pool).await.unwrap();
    drop((pool, database));
}
