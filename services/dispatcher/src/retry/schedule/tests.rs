//! The limits of the statements that claim, release and sweep rows hold under every plan.
//!
//! A subquery with `FOR UPDATE SKIP LOCKED` that a nested loop reads again skips the rows that the statement has
//! changed and yields the next ones: its limit then counts per reading. PostgreSQL chooses that plan while its
//! statistics say that the table has one row, as before the first outage of an endpoint.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use devstack::testing::TestDatabase;
use schemas::ids::{EndpointId, OrgId};
use sqlx::postgres::PgPool;
use testkit::setup;

use super::*;
use crate::attempt::body::size_in_batch;
use crate::delivery::outbound_event;
use crate::delivery::{Delivery, OutboundEvent, TEST_PARTITION};

const TOPIC: &str = "triggers.events.v1";
const LIMITS: OpenLimits = OpenLimits { rows: 1_000_000, bytes: 1_000_000 };
const DUE: WaitsFor = WaitsFor::Attempt { attempts: 0, due_after: Duration::ZERO, lease: None, batch_limit: None };

/// A database whose statistics were taken when each table had one row. Plans are made once.
async fn database() -> (TestDatabase, PgPool) {
    let (database, _) = setup::database().await;
    let pool = setup::pool(&format!("{}&options=-c%20plan_cache_mode%3Dforce_generic_plan", database.url));
    set_position(&pool, "dispatcher").await;
    set_position(&pool, "materializer").await;
    (database, pool)
}

/// Adds a delivery of each of these records of partition 0 to an endpoint.
async fn add(pool: &PgPool, endpoint: EndpointId, offsets: Range<i64>, waits_for: WaitsFor) {
    let org_id = OrgId::generate();
    let row = |offset| {
        let event = OutboundEvent { event_type: "n".to_owned(), offset, ..outbound_event(org_id) };
        NewRow { delivery: Delivery::new(endpoint, Arc::new(event)), waits_for }
    };
    let rows: Vec<NewRow> = offsets.map(row).collect();
    let mut transaction = runtime::postgres::begin(pool).await.unwrap();
    insert(&mut transaction, &rows, LIMITS).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn execute(pool: &PgPool, sql: &'static str) {
    sqlx::query(sql).execute(pool).await.unwrap();
}

/// A consumer has applied the first million records of partition 0.
async fn set_position(pool: &PgPool, consumer: &str) {
    sqlx::query(
        "INSERT INTO consumer_positions (consumer, topic, partition, log_epoch, next_offset) VALUES ($1, $2, 0, 1, $3)",
    )
    .bind(consumer)
    .bind(TOPIC)
    .bind(1_000_000_i64)
    .execute(pool)
    .await
    .unwrap();
}

async fn count(pool: &PgPool, table: &str) -> i64 {
    let rows = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(rows).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_claim_takes_as_many_rows_as_were_asked_for() {
    let (_database, pool) = database().await;
    let endpoints = [EndpointId::generate(), EndpointId::generate()];
    let lease = Duration::from_secs(30);
    let wanted =
        [1, 2].map(|max_rows| Wanted { endpoint: endpoints[max_rows - 1], max_rows, lease, before_due: false });
    let mut connection = pool.acquire().await.unwrap();
    add(&pool, endpoints[0], 0..1, DUE).await;
    execute(&pool, "ANALYZE delivery_schedule").await;
    assert_eq!(claim(&mut connection, &wanted, true).await.unwrap().len(), 1);
    // They fit on the page of the first row: the planner takes the number of rows from the number of pages.
    add(&pool, endpoints[0], 1..6, DUE).await;
    add(&pool, endpoints[1], 1..6, DUE).await;
    let claimed = claim(&mut connection, &wanted, true).await.unwrap();
    let of = |id| claimed.iter().filter(|row| row.delivery.endpoint_id == id).count();
    assert_eq!((of(endpoints[0]), of(endpoints[1])), (1, 2));
}

/// A queue whose first row is in flight has nothing to read before its lease ends.
#[tokio::test]
async fn what_is_added_before_the_first_open_row_is_claimed() {
    let (_database, pool) = database().await;
    let endpoint = EndpointId::generate();
    let lease = Duration::from_secs(30);
    let wanted = Wanted { endpoint, max_rows: 9, lease, before_due: false };
    let claimed = async || {
        let mut transaction = runtime::postgres::begin(&pool).await.unwrap();
        let claimed = claim(&mut transaction, &[wanted], true).await.unwrap().len();
        reset(&mut transaction, &[(endpoint, NextDue::NotBefore(Duration::ZERO))]).await.unwrap();
        transaction.commit().await.unwrap();
        claimed
    };
    let is_raised = async || {
        let sql = "SELECT first_due_at > now() FROM endpoint_queues";
        let raised: bool = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
        raised
    };
    add(&pool, endpoint, 0..1, DUE).await;
    assert_eq!(claimed().await, 1);
    assert!(is_raised().await);
    add(&pool, endpoint, 1..2, DUE).await;
    assert_eq!(claimed().await, 1, "what is added lowers it");
    // While a queue is held, nothing lowers it.
    execute(&pool, "UPDATE endpoint_queues SET is_held = true, next_due_at = 'infinity'").await;
    add(&pool, endpoint, 2..3, DUE).await;
    assert!(is_raised().await);
    release(&mut pool.acquire().await.unwrap(), endpoint).await.unwrap();
    assert_eq!(claimed().await, 1, "its release lowers it");
    assert!(is_raised().await);
    execute(&pool, "UPDATE delivery_schedule SET state = 'delivered', finished_at = now()").await;
    assert_eq!(claimed().await, 0);
    add(&pool, endpoint, 3..4, DUE).await;
    assert_eq!(claimed().await, 1, "also when all was finished");
}

/// Rows of a deleted endpoint are claimed before they are due. One that somebody had locked is claimed soon.
#[tokio::test]
async fn what_was_locked_is_looked_for_again() {
    let (_database, pool) = database().await;
    let endpoint = EndpointId::generate();
    let due_after = Duration::from_secs(3600);
    let waits = WaitsFor::Attempt { attempts: 1, due_after, lease: None, batch_limit: None };
    let next_due = async || {
        let mut transaction = runtime::postgres::begin(&pool).await.unwrap();
        reset(&mut transaction, &[(endpoint, NextDue::IfAnyIsLeft(Duration::from_secs(1)))]).await.unwrap();
        transaction.commit().await.unwrap();
        next_due(&pool).await.unwrap()
    };
    add(&pool, endpoint, 0..1, waits).await;
    let soon = next_due().await;
    assert!(soon.is_some_and(|seconds| seconds <= 1.0), "{soon:?}");
    execute(&pool, "UPDATE delivery_schedule SET state = 'cancelled', finished_at = now()").await;
    assert_eq!(next_due().await, None);
}

#[tokio::test]
async fn a_release_moves_at_most_one_batch() {
    let (_database, pool) = database().await;
    let endpoint = EndpointId::generate();
    add(&pool, endpoint, 0..1, WaitsFor::Dedup).await;
    execute(&pool, "ANALYZE deliveries_awaiting_dedup, consumer_positions").await;
    assert!(!release_decided(&pool, "materializer", TOPIC).await.unwrap());
    add(&pool, endpoint, 1..1501, WaitsFor::Dedup).await;
    assert!(release_decided(&pool, "materializer", TOPIC).await.unwrap());
    assert_eq!(count(&pool, "deliveries_awaiting_dedup").await, 500);
}

#[tokio::test]
async fn a_sweep_deletes_at_most_one_batch() {
    let (_database, pool) = database().await;
    let endpoint = EndpointId::generate();
    let finish = "UPDATE delivery_schedule SET state = 'delivered', finished_at = now()";
    add(&pool, endpoint, 0..1, DUE).await;
    execute(&pool, finish).await;
    execute(&pool, "ANALYZE delivery_schedule, consumer_positions").await;
    assert!(!sweep(&pool, "dispatcher", TOPIC).await.unwrap());
    add(&pool, endpoint, 1..1501, DUE).await;
    execute(&pool, finish).await;
    assert!(sweep(&pool, "dispatcher", TOPIC).await.unwrap());
    assert_eq!(count(&pool, "delivery_schedule").await, 500);
}

#[tokio::test]
async fn candidates_have_their_size_and_limit() {
    let (_database, pool) = database().await;
    let (org_id, endpoint) = (OrgId::generate(), EndpointId::generate());
    let row = |offset, partition, batch_limit| {
        let (payload, traceparent) = (format!("\"\u{e4}{}\"", "x".repeat(5000)), Some("00-trace".to_owned()));
        let event_type = "order.\u{e9}".to_owned();
        let event = OutboundEvent { offset, partition, payload, traceparent, event_type, ..outbound_event(org_id) };
        let waits_for = WaitsFor::Attempt { attempts: 1, due_after: Duration::ZERO, lease: None, batch_limit };
        NewRow { delivery: Delivery::new(endpoint, Arc::new(event)), waits_for }
    };
    let rows = [row(0, 0, None), row(1, 0, Some(50)), row(2, TEST_PARTITION, None)];
    let mut connection = pool.acquire().await.unwrap();
    insert(&mut connection, &rows, LIMITS).await.unwrap();
    execute(&pool, "UPDATE delivery_schedule SET due_at = due_at - make_interval(secs => 10 - log_offset)").await;
    execute(&pool, "UPDATE endpoint_queues SET first_due_at = '-infinity'").await;
    let mut found = candidates(&mut connection, &[(endpoint, 10), (EndpointId::generate(), 10)]).await.unwrap();
    let due = found.remove(&endpoint).unwrap();
    assert!(found.is_empty());
    let expected: Vec<_> = rows.iter().map(|row| (row.delivery.id, size_in_batch(&row.delivery.event))).collect();
    assert_eq!(due.iter().map(|row| (row.id, row.bytes)).collect::<Vec<_>>(), expected);
    assert_eq!(due.iter().map(|row| row.limit).collect::<Vec<_>>(), [None, Some(50), Some(1)], "a test goes alone");
    let first = candidates(&mut connection, &[(endpoint, 1)]).await.unwrap();
    assert_eq!(first[&endpoint], due[..1]);

    // A chosen row that somebody else has claimed meanwhile is not claimed again.
    let lease = Duration::from_secs(30);
    let chosen: Vec<Chosen> = due[..2].iter().map(|row| Chosen { delivery: row.id, lease }).collect();
    assert_eq!(claim_chosen(&mut connection, &chosen[..1]).await.unwrap().len(), 1);
    let claimed = claim_chosen(&mut connection, &chosen).await.unwrap();
    assert_eq!(claimed.iter().map(|row| row.delivery.id).collect::<Vec<_>>(), [due[1].id]);
}

mod lanes;
