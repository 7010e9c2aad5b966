//! The retry worker: claims due rows of the schedule, makes their attempts and writes the outcomes. It also releases
//! rows that have their duplicate decision, and sweeps finished ones. `schedule` has the SQL.

use std::collections::HashMap;
use std::time::Duration;

use runtime::postgres::{SqlEffect, effect};
use schemas::ids::{DeliveryId, EndpointId};
use schemas::topics::MATERIALIZER;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};
use uuid::Uuid;

use crate::attempt::attempter;
use crate::attempt::slots::Slot;
use crate::config::CONSUMER;
use crate::delivery::{AttemptOutcome, RowState, RowUpdate};
use crate::dependencies::Dependencies;
use crate::endpoints::matching::{EndpointState, Snapshot};
use crate::metrics::METRICS;
use crate::retry::schedule::{self, ClaimedRow, LeasedOutcome};

/// Longest time between two polls of the schedule.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two polls: notifications come in bursts.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
const COUNT_INTERVAL: Duration = Duration::from_secs(10);
/// Rows of one endpoint that one poll claims at most.
const MAX_CLAIMS_PER_ENDPOINT: usize = 64;
/// How long a row waits that was claimed and cannot be attempted yet.
const POSTPONED: Duration = Duration::from_secs(1);
/// How long a row waits whose endpoint cannot be used.
const UNUSABLE: Duration = Duration::from_secs(60);
const CANCEL_LEASE: Duration = Duration::from_secs(60);

pub(crate) struct RetryWorker {
    dependencies: Dependencies,
    max_in_flight: usize,
    drain: Duration,
    attempts: JoinSet<RowUpdate>,
    /// Delivery, lease and attempts so far of the rows in flight.
    leases: HashMap<Id, (DeliveryId, Uuid, u32)>,
    /// Outcomes that are not written yet.
    outcomes: Vec<LeasedOutcome>,
    /// Each poll starts with another endpoint, so that none is always the last.
    first_endpoint: usize,
    /// The last poll left due rows behind.
    has_more: bool,
    /// Waits until attempts can be reported again.
    probe: Option<AbortOnDropHandle<()>>,
}

impl RetryWorker {
    /// The shutdown waits at most `drain` for the attempts in flight.
    pub(crate) fn new(dependencies: &Dependencies, max_in_flight: usize, drain: Duration) -> Self {
        Self {
            dependencies: dependencies.clone(),
            max_in_flight,
            drain,
            attempts: JoinSet::new(),
            leases: HashMap::new(),
            outcomes: Vec::new(),
            first_endpoint: 0,
            has_more: false,
            probe: None,
        }
    }

    /// Runs until `shutdown`, then waits for the attempts in flight.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let rows_added = self.dependencies.rows_added.clone();
        let mut next_poll = Instant::now();
        let mut next_count = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(finished) = self.attempts.join_next_with_id() => {
                    self.attempt_finished(finished);
                    while let Some(finished) = self.attempts.try_join_next_with_id() {
                        self.attempt_finished(finished);
                    }
                    if self.has_more {
                        next_poll = next_poll.min(Instant::now() + MIN_POLL_INTERVAL);
                    }
                }
                () = rows_added.notified() => next_poll = next_poll.min(Instant::now() + MIN_POLL_INTERVAL),
                () = tokio::time::sleep_until(next_poll) => {}
            }
            self.write_outcomes().await;
            if Instant::now() >= next_poll {
                let wait = self.poll().await.unwrap_or_else(|error| {
                    warn!(%error, "Delivery schedule could not be read; trying again.");
                    MAX_POLL_INTERVAL
                });
                next_poll = Instant::now() + wait.clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL);
            }
            if Instant::now() >= next_count {
                next_count = Instant::now() + COUNT_INTERVAL;
                if let Ok(rows) = schedule::depth(&self.dependencies.pool).await {
                    METRICS.schedule_depth.set(rows as f64);
                }
            }
        }
        self.finish().await;
    }

    /// Releases decided rows, claims due rows, starts their attempts, sweeps finished rows. Returns the time until the
    /// next poll.
    async fn poll(&mut self) -> Result<Duration, sqlx::Error> {
        let pool = self.dependencies.pool.clone();
        let has_more_decided = schedule::release_decided(&pool, MATERIALIZER, &self.dependencies.topic).await?;
        let (due, later): (Vec<_>, Vec<_>) =
            schedule::due_endpoints(&pool).await?.into_iter().partition(|(_, seconds)| *seconds <= 0.0);
        let due: Vec<EndpointId> = due.into_iter().map(|(id, _)| id).collect();
        let wait = later.into_iter().map(|(_, seconds)| seconds).fold(MAX_POLL_INTERVAL.as_secs_f64(), f64::min);
        let has_more_due = self.can_report() && !due.is_empty() && self.claim(&due).await?;
        let has_more_finished = schedule::sweep(&pool, CONSUMER, &self.dependencies.topic).await?;
        let has_more = has_more_decided || has_more_due || has_more_finished;
        Ok(if has_more { Duration::ZERO } else { Duration::from_secs_f64(wait) })
    }

    /// Whether attempts can be reported. If not, one task waits until they can, for the log worker too.
    fn can_report(&mut self) -> bool {
        let reporter = self.dependencies.reporter.clone();
        let is_available = reporter.is_available();
        if !is_available && self.probe.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            self.probe = Some(AbortOnDropHandle::new(tokio::spawn(async move { reporter.probe().await })));
        }
        is_available
    }

    /// Claims due rows of these endpoints and starts their attempts. `true`: more can be claimed at once.
    async fn claim(&mut self, due: &[EndpointId]) -> Result<bool, sqlx::Error> {
        let snapshot = self.dependencies.endpoint_cache.current().await?;
        let mut free = self.max_in_flight.saturating_sub(self.attempts.len());
        let mut slots: HashMap<EndpointId, Vec<Slot>> = HashMap::new();
        let mut wanted = Vec::new();
        self.first_endpoint = self.first_endpoint.wrapping_add(1);
        let first = self.first_endpoint % due.len();
        self.has_more = false;
        for id in due[first..].iter().chain(&due[..first]) {
            let rows = free.min(MAX_CLAIMS_PER_ENDPOINT);
            let (rows, lease) = match snapshot.state(*id) {
                EndpointState::Enabled(endpoint) => {
                    let granted: Vec<Slot> =
                        (0..rows).map_while(|_| self.dependencies.slots.take(*id, endpoint.max_in_flight)).collect();
                    let rows = granted.len();
                    slots.insert(*id, granted);
                    (rows, attempter::lease(endpoint.timeout))
                }
                EndpointState::Withheld | EndpointState::Gone => (rows, CANCEL_LEASE),
            };
            free -= rows;
            if rows == 0 {
                self.has_more = true;
            } else {
                wanted.push((*id, rows, lease));
            }
        }
        let claimed = schedule::claim(&self.dependencies.pool, &wanted).await?;
        let count = |id: EndpointId| claimed.iter().filter(|row| row.delivery.endpoint_id == id).count();
        self.has_more |= wanted.iter().any(|(id, rows, _)| count(*id) == *rows);
        let has_claimed = !claimed.is_empty();
        self.start_attempts(claimed, slots).await;
        Ok(self.has_more && has_claimed && self.attempts.len() < self.max_in_flight)
    }

    /// Reads the endpoints once more: they may have been deleted before the rows were claimed.
    async fn start_attempts(&mut self, claimed: Vec<ClaimedRow>, mut slots: HashMap<EndpointId, Vec<Slot>>) {
        let snapshot = match self.dependencies.endpoint_cache.current().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                warn!(%error, "Endpoints could not be read; claimed deliveries are postponed.");
                claimed.iter().for_each(|row| self.postpone(row, POSTPONED));
                return;
            }
        };
        let mut disabled = Vec::new();
        for row in claimed {
            let slot = slots.get_mut(&row.delivery.endpoint_id).and_then(Vec::pop);
            match (action(&row, &snapshot), slot) {
                (RowAction::Cancel(reason), _) => self.cancel(row, reason),
                (RowAction::Hold, _) => disabled.push(row),
                (RowAction::Attempt, Some(slot)) => self.attempt(row, &snapshot, slot),
                (RowAction::Attempt, None) => self.postpone(&row, POSTPONED),
            }
        }
        self.hold(disabled).await;
    }

    fn attempt(&mut self, row: ClaimedRow, snapshot: &Snapshot, slot: Slot) {
        let EndpointState::Enabled(endpoint) = snapshot.state(row.delivery.endpoint_id) else { return };
        let (attempter, endpoint, attempt) = (self.dependencies.attempter.clone(), endpoint.clone(), row.attempts + 1);
        let lease = (row.delivery.id, row.lease, row.attempts);
        let task = async move { attempter.attempt(&endpoint, &row.delivery, attempt, slot).await.row_update(attempt) };
        self.leases.insert(self.attempts.spawn(task).id(), lease);
    }

    fn cancel(&mut self, row: ClaimedRow, reason: &'static str) {
        let (attempter, attempts) = (self.dependencies.attempter.clone(), row.attempts);
        let lease = (row.delivery.id, row.lease, attempts);
        let task = async move {
            if attempter.cancel(&row.delivery, attempts, reason).await {
                RowUpdate::finished(RowState::Cancelled, attempts)
            } else {
                AttemptOutcome::Unreported.row_update(attempts + 1)
            }
        };
        self.leases.insert(self.attempts.spawn(task).id(), lease);
    }

    async fn hold(&mut self, disabled: Vec<ClaimedRow>) {
        if disabled.is_empty() {
            return;
        }
        let leases: Vec<(DeliveryId, Uuid)> = disabled.iter().map(|row| (row.delivery.id, row.lease)).collect();
        match schedule::hold(&self.dependencies.pool, &leases).await {
            // The others' endpoints were just enabled again, or cannot be used.
            Ok(held) => {
                let not_held = disabled.iter().filter(|row| !held.contains(&row.delivery.id));
                not_held.for_each(|row| self.postpone(row, UNUSABLE));
            }
            Err(error) => {
                warn!(%error, "Deliveries of disabled endpoints could not be held; trying again when their leases end.")
            }
        }
    }

    fn postpone(&mut self, row: &ClaimedRow, due_after: Duration) {
        let update = RowUpdate::pending(row.attempts, due_after);
        self.outcomes.push(LeasedOutcome { delivery_id: row.delivery.id, lease: row.lease, update });
    }

    fn attempt_finished(&mut self, finished: Result<(Id, RowUpdate), JoinError>) {
        let (id, update) = match finished {
            Ok((id, update)) => (id, Some(update)),
            Err(error) => {
                error!(%error, "Webhook attempt panicked; repeating it.");
                (error.id(), None)
            }
        };
        if let Some((delivery_id, lease, attempts)) = self.leases.remove(&id) {
            let update = update.unwrap_or(RowUpdate::pending(attempts, UNUSABLE));
            self.outcomes.push(LeasedOutcome { delivery_id, lease, update });
        }
    }

    /// Outcomes wait while the database is unavailable. When their leases end, the attempts are repeated.
    async fn write_outcomes(&mut self) {
        if self.outcomes.is_empty() {
            return;
        }
        let written = match self.dependencies.pool.acquire().await {
            Ok(mut connection) => schedule::write_outcomes(&mut connection, &self.outcomes).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => self.outcomes.clear(),
            Err(error) if matches!(effect(&error), SqlEffect::Retry | SqlEffect::Unavailable) => {
                warn!(%error, "Database unavailable; retrying to write outcomes of attempts.");
                tokio::time::sleep(POSTPONED).await;
            }
            Err(error) => {
                error!(%error, "Outcomes of attempts could not be written; the attempts are repeated.");
                self.outcomes.clear();
            }
        }
    }

    async fn finish(&mut self) {
        let until = Instant::now() + self.drain;
        while let Ok(Some(finished)) = tokio::time::timeout_at(until, self.attempts.join_next_with_id()).await {
            self.attempt_finished(finished);
        }
        // The shutdown deadline of the process ends this if the database does not answer.
        while !self.outcomes.is_empty() {
            self.write_outcomes().await;
        }
    }
}

enum RowAction {
    Attempt,
    Hold,
    Cancel(&'static str),
}

fn action(row: &ClaimedRow, snapshot: &Snapshot) -> RowAction {
    match snapshot.state(row.delivery.endpoint_id) {
        EndpointState::Gone => RowAction::Cancel("the endpoint was deleted"),
        // Only retries are cancelled: a first attempt is sent as it would have been from the log.
        _ if row.acknowledged && row.attempts > 0 => RowAction::Cancel("the event was acknowledged"),
        EndpointState::Withheld => RowAction::Hold,
        EndpointState::Enabled(_) => RowAction::Attempt,
    }
}
