//! Wakes those who wait for events of an organization (long polls): one task for all, which runs only while somebody
//! waits.
//!
//! Where a position of the view has moved, the task asks which of the waiting organizations got an event there. So a
//! waiting client costs nothing until something arrives for it. What it then reads is the reader's part.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use platform::fence::{Position, Positions, PositionsPoller};
use platform::on_demand::OnDemand;
use schemas::ids::OrgId;
use sqlx::postgres::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use uuid::Uuid;

/// Requests that may wait at once in one process.
const MAX_WAITING: usize = 2_000;
/// Pause between two looks; longer when looking itself takes long, so that it never costs more than a fifth of one
/// connection's time.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);
/// How long one look waits for positions, before it checks again whether anybody waits.
const POSITIONS_WITHIN: Duration = Duration::from_secs(1);

/// Wakes those who wait. Cloning shares it.
#[derive(Clone)]
pub(crate) struct NewEventNotifier {
    shared: Arc<Shared>,
    task: Arc<OnDemand>,
}

struct Shared {
    pool: PgPool,
    events_topic: String,
    positions: PositionsPoller,
    permits: Arc<Semaphore>,
    /// One for each organization somebody waits for, whose receivers are those who wait. Without receivers it is
    /// removed by the next look.
    notifiers: Mutex<HashMap<Uuid, watch::Sender<()>>>,
    /// The positions that the last look was about.
    known: Mutex<Option<Positions>>,
}

/// One who waits; dropping it ends the wait.
pub(crate) struct Waiter {
    notified: watch::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

impl Waiter {
    /// Waits until something may have arrived since the wait began or since the last time.
    pub(crate) async fn notified(&mut self) {
        // The sender lives for as long as it has a receiver.
        let _changed = self.notified.changed().await;
    }
}

impl NewEventNotifier {
    pub(crate) fn new(pool: PgPool, events_topic: &str, positions: PositionsPoller) -> Self {
        let shared = Shared {
            pool,
            events_topic: events_topic.to_owned(),
            positions,
            permits: Arc::new(Semaphore::new(MAX_WAITING)),
            notifiers: Mutex::default(),
            known: Mutex::default(),
        };
        Self { shared: Arc::new(shared), task: Arc::new(OnDemand::new("new-event notifier")) }
    }

    /// Starts to wait; whatever becomes visible from here on is noticed. `None`: too many wait already.
    pub(crate) fn wait_for(&self, organization: OrgId) -> Option<Waiter> {
        let permit = self.shared.permits.clone().try_acquire_owned().ok()?;
        let notified = self.shared.notifiers().entry(organization.as_uuid()).or_default().subscribe();
        let (needed, shared) = (self.shared.clone(), self.shared.clone());
        self.task.ensure_running(move || needed.is_needed(), move || look(shared.clone()));
        Some(Waiter { notified, _permit: permit })
    }

    pub(crate) fn waiting(&self) -> usize {
        MAX_WAITING - self.shared.permits.available_permits()
    }
}

impl Shared {
    fn notifiers(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<()>>> {
        self.notifiers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Option<Positions>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody waits. Removes the notifiers of those who left.
    fn is_needed(&self) -> bool {
        let mut notifiers = self.notifiers();
        notifiers.retain(|_, notifier| notifier.receiver_count() > 0);
        !notifiers.is_empty()
    }

    fn notify(&self, organizations: &[Uuid]) {
        let notifiers = self.notifiers();
        for notifier in organizations.iter().filter_map(|organization| notifiers.get(organization)) {
            notifier.send_replace(());
        }
    }

    /// Wakes the organizations that got something between the positions that are known and `positions`. Whoever starts
    /// to wait after the positions were read will itself read what lies before them; for all others it is asked here.
    /// So the positions come first, then the organizations, and nothing is missed between two looks.
    async fn notify_receivers(&self, positions: &Positions) -> Result<(), sqlx::Error> {
        let organizations: Vec<Uuid> = self.notifiers().keys().copied().collect();
        let known = self.known().clone();
        let receivers = match known {
            // The first look: nobody knows what came before it.
            None => organizations,
            Some(known) => {
                let moved = moved(&by_partition(&known, &self.events_topic), positions.of_topic(&self.events_topic));
                if moved.is_empty() { Vec::new() } else { self.receivers(&moved, &organizations).await? }
            }
        };
        self.notify(&receivers);
        *self.known() = Some(positions.clone());
        Ok(())
    }

    /// Those of `organizations` that have an event at or after one of `positions`.
    async fn receivers(&self, positions: &[(i32, Position)], organizations: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
        let partitions: Vec<i32> = positions.iter().map(|(partition, _)| *partition).collect();
        let epochs: Vec<i32> = positions.iter().map(|(_, position)| position.log_epoch).collect();
        let offsets: Vec<i64> = positions.iter().map(|(_, position)| position.next_offset).collect();
        // LIMIT keeps the planner from turning the probes into one join over the whole table.
        sqlx::query_scalar(
            "SELECT DISTINCT o.org_id
             FROM UNNEST($1::uuid[]) AS o (org_id)
             CROSS JOIN UNNEST($2::integer[], $3::integer[], $4::bigint[]) AS p (log_partition, log_epoch, log_offset)
             CROSS JOIN LATERAL (SELECT FROM view.events e
                                 WHERE e.org_id = o.org_id AND e.log_partition = p.log_partition
                                   AND (e.log_epoch, e.log_offset) >= (p.log_epoch, p.log_offset)
                                 LIMIT 1) AS arrived",
        )
        .bind(organizations)
        .bind(partitions)
        .bind(epochs)
        .bind(offsets)
        .fetch_all(&self.pool)
        .await
    }
}

async fn look(shared: Arc<Shared>) {
    let known = shared.known().as_ref().and_then(Positions::read_at);
    let Some(positions) = shared.positions.newer_than(known, POSITIONS_WITHIN).await else { return };
    let start = Instant::now();
    let pause = match shared.notify_receivers(&positions).await {
        Ok(()) => PAUSE.max(start.elapsed() * 4),
        // Those who wait read once more at their deadline, and then get the error.
        Err(error) => {
            tracing::debug!(%error, "Reading which organizations got events failed; trying again.");
            PAUSE_AFTER_ERROR
        }
    };
    tokio::time::sleep(pause).await;
}

fn by_partition(positions: &Positions, topic: &str) -> BTreeMap<i32, Position> {
    positions.of_topic(topic).collect()
}

/// For each partition whose position has moved, where it was before; the beginning for a new partition.
fn moved(known: &BTreeMap<i32, Position>, now: impl Iterator<Item = (i32, Position)>) -> Vec<(i32, Position)> {
    const BEGINNING: Position = Position { log_epoch: 0, next_offset: 0 };
    now.map(|(partition, new)| (partition, known.get(&partition).copied().unwrap_or(BEGINNING), new))
        .filter(|(_, old, new)| old != new)
        .map(|(partition, old, _)| (partition, old))
        .collect()
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;

    use super::*;

    #[tokio::test]
    async fn so_many_may_wait_and_no_more_until_one_leaves() {
        // Nothing listens there, and nothing needs to.
        let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
        let positions = PositionsPoller::new(pool.clone(), crate::projector::CONSUMER);
        let notifier = NewEventNotifier::new(pool, "events", positions);
        let organization = OrgId::generate();
        let mut waiters: Vec<Waiter> = (0..MAX_WAITING).filter_map(|_| notifier.wait_for(organization)).collect();
        assert_eq!((waiters.len(), notifier.waiting()), (MAX_WAITING, MAX_WAITING));
        assert!(notifier.wait_for(organization).is_none());
        waiters.pop();
        waiters.push(notifier.wait_for(organization).unwrap());
        drop(waiters);
        assert!(!notifier.shared.is_needed() && notifier.shared.notifiers().is_empty(), "nothing is kept of them");
    }

    #[test]
    fn a_partition_has_moved_from_where_it_was_seen_last() {
        let at = |log_epoch, next_offset| Position { log_epoch, next_offset };
        let known = BTreeMap::from([(0, at(1, 5)), (1, at(1, 9)), (2, at(1, 7))]);
        let now = [(0, at(1, 5)), (1, at(1, 12)), (2, at(2, 0)), (3, at(1, 4))];
        assert_eq!(moved(&known, now.into_iter()), vec![(1, at(1, 9)), (2, at(1, 7)), (3, at(0, 0))]);
        assert_eq!(moved(&known, known.clone().into_iter()), vec![]);
    }
}
