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
use crate::delivery::tests::outbound_event;
use crate::delivery::{Delivery, OutboundEvent};

const TOPIC: &str = "triggers.events.v1";
const LIMITS: OpenLimits = OpenLimits { rows: 1_000_000, bytes: 1_000_000 };
const DUE: WaitsFor = WaitsFor::Attempt { attempts: 0, due_after: Duration::ZERO, lease: None };

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
    insert(&mut pool.acquire().await.unwrap(), &rows, LIMITS).await.unwrap();
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

mod lanes;
