//! Wakes long polls when an event of their organization arrives: one task for all, which runs only while requests wait.
//!
//! When a position of the view has moved, the task queries which waiting organizations got an event there. So a waiting
//! client costs nothing until an event arrives for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka::fence::{Position, Positions, PositionsPoller};
use runtime::budget::Permit;
use runtime::on_demand::OnDemand;
use schemas::events_in_log_order;
use schemas::ids::OrgId;
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::columns::column;

/// Pause between two polls. A slow poll makes it longer, so that polling takes at most a fifth of one connection's
/// time.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);
/// How long one poll waits for positions before it checks again whether requests wait.
const POSITIONS_WITHIN: Duration = Duration::from_secs(1);

/// Wakes waiting requests. Clones share one task.
#[derive(Clone)]
pub(crate) struct NewEventNotifier {
    state: Arc<NotifierState>,
    task: Arc<OnDemand>,
}

struct NotifierState {
    pool: PgPool,
    events_topic: String,
    positions: PositionsPoller,
    /// One sender per waiting organization; the receivers are its requests. The next poll removes a sender without
    /// receivers.
    notifiers: Mutex<HashMap<Uuid, watch::Sender<()>>>,
    /// The positions at the last poll.
    last_polled: Mutex<Option<Positions>>,
}

/// A waiting request; dropping it stops the wait.
pub(crate) struct Waiter {
    notified: watch::Receiver<()>,
    _permits: [Permit; 2],
}

impl Waiter {
    /// Waits until an event may have arrived since the wait started or since the last call.
    pub(crate) async fn notified(&mut self) {
        // The sender lives for as long as it has a receiver.
        let _changed = self.notified.changed().await;
    }
}

impl NewEventNotifier {
    pub(crate) fn new(pool: PgPool, events_topic: &str, positions: PositionsPoller) -> Self {
        let state = NotifierState {
            pool,
            events_topic: events_topic.to_owned(),
            positions,
            notifiers: Mutex::default(),
            last_polled: Mutex::default(),
        };
        Self { state: Arc::new(state), task: Arc::new(OnDemand::new("new-event notifier")) }
    }

    /// Starts to wait; events that become visible from now on wake it. `permits` count the wait.
    pub(crate) fn wait_for(&self, organization: OrgId, permits: [Permit; 2]) -> Waiter {
        let notified = self.state.notifiers().entry(organization.as_uuid()).or_default().subscribe();
        let (needed, state) = (self.state.clone(), self.state.clone());
        self.task.ensure_running(move || needed.is_needed(), move || poll(state.clone()));
        Waiter { notified, _permits: permits }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state.notifiers().values().map(watch::Sender::receiver_count).sum()
    }
}

impl NotifierState {
    fn notifiers(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<()>>> {
        self.notifiers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_polled(&self) -> MutexGuard<'_, Option<Positions>> {
        self.last_polled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any request waits. Removes the senders of requests that stopped.
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

    /// Wakes the organizations that got an event between the positions of the last poll and `positions`. A request
    /// that starts to wait later itself reads the events before `positions`; this query serves all others. So
    /// positions are read first, then organizations, and no event is missed between two polls.
    async fn notify_receivers(&self, positions: &Positions) -> Result<(), sqlx::Error> {
        let organizations: Vec<Uuid> = self.notifiers().keys().copied().collect();
        let last = self.last_polled().clone();
        let receivers = match last {
            // The first poll: earlier events are unknown, so wake everyone.
            None => organizations,
            Some(last) => {
                let moved = moved(&by_partition(&last, &self.events_topic), positions.of_topic(&self.events_topic));
                if moved.is_empty() { Vec::new() } else { self.receivers(&moved, &organizations).await? }
            }
        };
        self.notify(&receivers);
        *self.last_polled() = Some(positions.clone());
        Ok(())
    }

    /// Those of `organizations` that have an event at or after one of `positions`.
    async fn receivers(&self, positions: &[(i32, Position)], organizations: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
        // LIMIT keeps the planner from turning the index lookups into one join over the table.
        sqlx::query_scalar(concat!(
            "SELECT DISTINCT o.org_id
             FROM UNNEST($1::uuid[]) AS o (org_id)
             CROSS JOIN UNNEST($2::integer[], $3::integer[], $4::bigint[]) AS p (log_partition, log_epoch, log_offset)
             CROSS JOIN LATERAL ",
            events_in_log_order!(
                SELECT "e.log_epoch, e.log_offset" FROM "view.events"
                WHERE "e.org_id = o.org_id AND e.log_partition = p.log_partition
                       AND (e.log_epoch, e.log_offset) >= (p.log_epoch, p.log_offset)"
                ORDER BY "log_epoch, log_offset" LIMIT "1"
            ),
            " AS arrived",
        ))
        .bind(organizations)
        .bind(column(positions, |(partition, _)| *partition))
        .bind(column(positions, |(_, position)| position.log_epoch))
        .bind(column(positions, |(_, position)| position.next_offset))
        .fetch_all(&self.pool)
        .await
    }
}

async fn poll(state: Arc<NotifierState>) {
    let last = state.last_polled().as_ref().and_then(Positions::read_at);
    let Some(positions) = state.positions.newer_than(last, POSITIONS_WITHIN).await else { return };
    let start = Instant::now();
    let pause = match state.notify_receivers(&positions).await {
        Ok(()) => PAUSE.max(start.elapsed() * 4),
        // Waiting requests read the view at their deadline and report the error.
        Err(error) => {
            tracing::debug!(%error, "Query for new events of waiting organizations failed; retrying");
            PAUSE_AFTER_ERROR
        }
    };
    tokio::time::sleep(pause).await;
}

fn by_partition(positions: &Positions, topic: &str) -> BTreeMap<i32, Position> {
    positions.of_topic(topic).collect()
}

/// For each partition whose position has moved, where it was before; the start of the log for a new partition.
fn moved(last: &BTreeMap<i32, Position>, now: impl Iterator<Item = (i32, Position)>) -> Vec<(i32, Position)> {
    const START: Position = Position { log_epoch: 0, next_offset: 0 };
    now.map(|(partition, new)| (partition, last.get(&partition).copied().unwrap_or(START), new))
        .filter(|(_, old, new)| old != new)
        .map(|(partition, old, _)| (partition, old))
        .collect()
}

#[cfg(test)]
mod tests {
    use runtime::budget::Budget;
    use sqlx::postgres::PgPoolOptions;

    use super::*;

    #[tokio::test]
    async fn nothing_is_kept_of_a_request_that_stopped_waiting() {
        // Nothing listens there, and nothing needs to.
        let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
        let positions = PositionsPoller::new(pool.clone(), crate::projector::CONSUMER);
        let notifier = NewEventNotifier::new(pool, "events", positions);
        let share = Budget::new("test_long_polls", 10, 10).share();
        let waiter = notifier.wait_for(OrgId::generate(), [share.take(1).unwrap(), share.take(1).unwrap()]);
        assert_eq!((notifier.waiting(), share.held()), (1, 2));
        drop(waiter);
        assert_eq!((notifier.waiting(), share.held()), (0, 0));
        assert!(!notifier.state.is_needed() && notifier.state.notifiers().is_empty());
    }

    #[test]
    fn a_partition_has_moved_from_where_it_was_seen_last() {
        let at = |log_epoch, next_offset| Position { log_epoch, next_offset };
        let last = BTreeMap::from([(0, at(1, 5)), (1, at(1, 9)), (2, at(1, 7))]);
        let now = [(0, at(1, 5)), (1, at(1, 12)), (2, at(2, 0)), (3, at(1, 4))];
        assert_eq!(moved(&last, now.into_iter()), vec![(1, at(1, 9)), (2, at(1, 7)), (3, at(0, 0))]);
        assert_eq!(moved(&last, last.clone().into_iter()), vec![]);
    }
}
