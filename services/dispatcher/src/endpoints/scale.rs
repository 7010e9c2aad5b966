//! Changes of an endpoint cost the same however many open deliveries it has, and nobody waits for them.
//!
//! `CLAIM_ROWS=1000000 cargo test -p dispatcher scale -- --nocapture` prints what they take beside that many rows, as
//! `make scale` does. The test counts what PostgreSQL reads; only at such a size it asserts a time.
#![cfg(test)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use devstack::testing::TestDatabase;
use runtime::postgres::begin;
use runtime::seal::SealingKey;
use schemas::ids::{EndpointId, OrgId};
use sqlx::postgres::{PgConnection, PgPool};
use testkit::setup;

use super::edit::{apply, new_endpoint};
use super::input::EndpointPatch;
use super::store;
use crate::delivery::outbound_event;
use crate::delivery::{Delivery, OutboundEvent, RowUpdate};
use crate::retry::schedule::scale::{is_measured, many, unhurried};
use crate::retry::schedule::{self, LeasedOutcome, NewRow, NextDue, OpenLimits, RetryOutcome, WaitsFor, Wanted};

const FEW: i64 = 1_000;
/// Of which the median time is taken.
const CHANGES: usize = 20;
const LONGEST_CHANGE: Duration = Duration::from_millis(100);
const LIMITS: OpenLimits = OpenLimits { rows: 100_000_000, bytes: 1_000_000_000 };
const LEASE: Duration = Duration::from_secs(30);
/// Rows that a poll cancels of a deleted endpoint.
const CANCELLED: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Disable,
    Enable,
    Delete,
}

/// An endpoint with many open deliveries, another one of its organization, and one of another organization.
struct Bench {
    _database: TestDatabase,
    pool: PgPool,
    /// Its statements fail when they wait for a lock.
    impatient: PgPool,
    org_id: OrgId,
    crowded: EndpointId,
    neighbor: EndpointId,
    stranger: EndpointId,
}

impl Bench {
    async fn start() -> Self {
        let (database, pool) = setup::database().await;
        let impatient = setup::pool(&format!("{}&options=-c%20lock_timeout%3D500", database.url));
        let (org_id, other) = (OrgId::generate(), OrgId::generate());
        let (crowded, neighbor) = (create(&pool, org_id).await, create(&pool, org_id).await);
        let stranger = create(&pool, other).await;
        let bench = Self { _database: database, pool, impatient, org_id, crowded, neighbor, stranger };
        bench.add(org_id, crowded, 0, Duration::ZERO).await;
        bench.add(org_id, neighbor, 1, Duration::ZERO).await;
        bench.add(other, stranger, 2, Duration::ZERO).await;
        bench
    }

    /// Adds a delivery as the log worker does. Returns its row.
    async fn add(&self, org_id: OrgId, endpoint: EndpointId, offset: i64, due_after: Duration) -> Delivery {
        let event = OutboundEvent { event_type: "n".to_owned(), offset, partition: 1, ..outbound_event(org_id) };
        let delivery = Delivery::new(endpoint, Arc::new(event));
        let waits_for = WaitsFor::Attempt { attempts: 1, due_after, lease: None, batch_limit: None };
        let row = NewRow { delivery: delivery.clone(), waits_for };
        let mut transaction = begin(&self.impatient).await.unwrap();
        schedule::insert(&mut transaction, &[row], LIMITS).await.expect("a spill waits for nobody");
        transaction.commit().await.unwrap();
        delivery
    }

    /// Fills the crowded endpoint up to so many open deliveries. Half of them are due.
    async fn fill(&self, rows: i64) {
        let mut connection = unhurried(&self.pool).await;
        sqlx::query(
            "INSERT INTO delivery_schedule (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at,
                                            log_epoch, log_partition, log_offset, state, attempts, due_at)
             SELECT gen_random_uuid(), $1, gen_random_uuid(), $2, 'n', now(), 1, 0, n, 'pending', 1,
                    now() + (n % 7200 - 3600) * interval '1 second'
             FROM generate_series((SELECT count(*) FROM delivery_schedule WHERE endpoint_id = $2), $3 - 1) AS n",
        )
        .bind(self.org_id.as_uuid())
        .bind(self.crowded.as_uuid())
        .bind(rows)
        .execute(&mut connection)
        .await
        .unwrap();
        sqlx::query("UPDATE endpoint_queues SET first_due_at = '-infinity'").execute(&mut connection).await.unwrap();
        sqlx::query("VACUUM ANALYZE delivery_schedule").execute(&mut connection).await.unwrap();
    }

    async fn change(&self, connection: &mut PgConnection, change: Change) {
        let version = store::raise_version(connection).await.unwrap();
        let switched = |enabled| EndpointPatch { enabled: Some(enabled), ..EndpointPatch::default() };
        let patch = match change {
            Change::Delete => {
                store::delete(connection, version, self.org_id, self.crowded).await.unwrap().unwrap();
                return;
            }
            Change::Disable => switched(false),
            Change::Enable => switched(true),
        };
        let apply = |endpoint: &mut _| apply(endpoint, patch, &sealing());
        store::update(connection, version, self.org_id, self.crowded, apply).await.unwrap().unwrap();
    }

    /// The median time of a change without its commit: each is undone. It must not read the schedule.
    async fn measure(&self, change: Change) -> Duration {
        let mut times = Vec::new();
        for _ in 0..CHANGES {
            let mut transaction = begin(&self.pool).await.unwrap();
            let before = touched(&mut transaction).await;
            let start = Instant::now();
            self.change(&mut transaction, change).await;
            times.push(start.elapsed());
            assert_eq!(touched(&mut transaction).await, before, "{change:?} reads or writes rows of the schedule");
            transaction.rollback().await.unwrap();
        }
        times.sort();
        times[CHANGES / 2]
    }

    /// Makes a change for good. Before it commits, others work as they do else.
    async fn commit(&self, change: Change, offset: i64) -> (Duration, Duration) {
        let mut transaction = begin(&self.pool).await.unwrap();
        let start = Instant::now();
        self.change(&mut transaction, change).await;
        let taken = start.elapsed();
        let start = Instant::now();
        self.others_work(offset).await;
        let others = start.elapsed();
        let start = Instant::now();
        transaction.commit().await.unwrap();
        (taken + start.elapsed(), others)
    }

    /// Holds the queue of the disabled endpoint, as the next poll does.
    async fn hold(&self) {
        let mut transaction = begin(&self.impatient).await.unwrap();
        schedule::lock_due(&mut transaction, &[]).await.unwrap();
        assert_eq!(schedule::hold(&mut transaction, &[self.crowded]).await.unwrap(), [self.crowded]);
        transaction.commit().await.unwrap();
    }

    /// Deliveries of the neighbor and the stranger are claimed, attempted, added, and retried by hand.
    async fn others_work(&self, offset: i64) {
        let mut transaction = begin(&self.impatient).await.unwrap();
        let locked = schedule::lock_due(&mut transaction, &[]).await.expect("the poll waits for nobody");
        let others = [self.neighbor, self.stranger];
        assert!(others.iter().all(|id| locked.iter().any(|(due, _)| due == id)), "both are due");
        let wanted = others.map(|endpoint| Wanted { endpoint, max_rows: 1, lease: LEASE, before_due: false });
        let claimed = schedule::claim(&mut transaction, &wanted, true).await.expect("the claim waits for nobody");
        assert_eq!(claimed.len(), 2);
        let next = others.map(|endpoint| (endpoint, NextDue::NotBefore(Duration::ZERO)));
        schedule::reset(&mut transaction, &next).await.unwrap();
        transaction.commit().await.unwrap();

        store::version(&self.impatient).await.expect("an attempt waits for nobody");
        let outcome = |row: &schedule::ClaimedRow| LeasedOutcome {
            delivery_id: row.delivery.id,
            lease: row.lease,
            update: RowUpdate::pending(1, Duration::ZERO),
        };
        let mut transaction = begin(&self.impatient).await.unwrap();
        let outcomes: Vec<LeasedOutcome> = claimed.iter().map(outcome).collect();
        schedule::write_outcomes(&mut transaction, &outcomes).await.expect("an outcome waits for nobody");
        transaction.commit().await.unwrap();

        let waiting = self.add(self.org_id, self.neighbor, offset, Duration::from_secs(3600)).await;
        let mut transaction = begin(&self.impatient).await.unwrap();
        let retried = schedule::retry_now(&mut transaction, self.org_id, waiting.id, LIMITS).await;
        assert_eq!(retried.expect("a retry waits for nobody"), RetryOutcome::Scheduled(self.neighbor));
        transaction.commit().await.unwrap();
    }

    /// How many rows a poll touches that cancels rows of the deleted endpoint, and its time.
    async fn cancel(&self) -> (i64, Duration) {
        let mut transaction = begin(&self.pool).await.unwrap();
        let before = touched(&mut transaction).await;
        let start = Instant::now();
        let wanted = Wanted { endpoint: self.crowded, max_rows: CANCELLED, lease: LEASE, before_due: true };
        let claimed = schedule::claim(&mut transaction, &[wanted], true).await.unwrap();
        schedule::reset(&mut transaction, &[(self.crowded, NextDue::AtOnce)]).await.unwrap();
        let taken = start.elapsed();
        assert_eq!(claimed.len(), CANCELLED);
        let touched = touched(&mut transaction).await - before;
        transaction.rollback().await.unwrap();
        (touched, taken)
    }
}

fn sealing() -> SealingKey {
    SealingKey::from_bytes([5; 32])
}

async fn create(pool: &PgPool, org_id: OrgId) -> EndpointId {
    let mut transaction = begin(pool).await.unwrap();
    let version = store::raise_version(&mut transaction).await.unwrap();
    let (endpoint, _) = new_endpoint(&sealing(), org_id, "https://example.com/".to_owned());
    store::create(&mut transaction, version, &endpoint).await.unwrap();
    transaction.commit().await.unwrap();
    endpoint.id
}

/// Rows of the schedule that this connection has read or written and not reported yet.
async fn touched(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "SELECT (seq_tup_read + COALESCE(idx_tup_fetch, 0) + n_tup_ins + n_tup_upd + n_tup_del)::bigint
         FROM pg_stat_xact_user_tables WHERE relname = 'delivery_schedule'",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

#[tokio::test]
async fn changes_cost_the_same_beside_many_open_deliveries() {
    let bench = Bench::start().await;
    let mut cancels = Vec::new();
    for (nth, rows) in [FEW, many()].into_iter().enumerate() {
        bench.fill(rows).await;
        for (step, change) in [Change::Disable, Change::Enable, Change::Delete].into_iter().enumerate() {
            let median = bench.measure(change).await;
            eprintln!("{rows} open deliveries: {change:?} takes {median:?}");
            assert!(!is_measured() || median < LONGEST_CHANGE, "{change:?} takes {median:?}");
            if change == Change::Delete {
                continue;
            }
            let (taken, others) = bench.commit(change, i64::try_from(10 * (nth + 1) + step).unwrap()).await;
            eprintln!("{rows} open deliveries: {change:?} commits in {taken:?}; others work in {others:?} meanwhile");
            if change == Change::Disable {
                bench.hold().await;
            }
        }
        cancels.push(bench.cancel().await);
        eprintln!("{rows} open deliveries: a poll that cancels {CANCELLED} touches {:?}", cancels[nth]);
    }
    let (taken, others) = bench.commit(Change::Delete, 100).await;
    eprintln!("{} open deliveries: Delete commits in {taken:?}; others work in {others:?} meanwhile", many());
    assert!(cancels[1].0 <= cancels[0].0 * 2, "polls that cancel touch {cancels:?}");
}
