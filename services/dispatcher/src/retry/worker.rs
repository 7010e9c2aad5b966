//! The retry worker: claims due rows of the schedule, makes their attempts and writes the outcomes. It also releases
//! rows that have their duplicate decision, ends schedules, and sweeps finished rows. `schedule` has the SQL.

mod batches;
mod claims;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use runtime::postgres::{SqlEffect, effect};
use schemas::ids::{DeliveryId, OrgId};
use schemas::topics::MATERIALIZER;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};
use uuid::Uuid;

use crate::config::{CONSUMER, DispatcherConfig};
use crate::delivery::RowUpdate;
use crate::dependencies::Dependencies;
use crate::metrics::METRICS;
use crate::retry::schedule::{self, ClaimedRow, EndedCursor, LeasedOutcome};

use waiting::WaitingEndpoints;

/// Longest time between two polls of the schedule.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two polls: notifications come in bursts.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);
const COUNT_INTERVAL: Duration = Duration::from_secs(10);
/// How long a row waits that was claimed and cannot be attempted yet.
const POSTPONED: Duration = Duration::from_secs(1);
/// How long a row waits whose attempt panicked.
const PANICKED: Duration = Duration::from_secs(60);

/// A row whose attempt is in flight.
struct LeasedRow {
    delivery_id: DeliveryId,
    org_id: OrgId,
    lease: Uuid,
    /// Attempts made before.
    attempts: u32,
}

pub(crate) struct RetryWorker {
    dependencies: Dependencies,
    max_in_flight: usize,
    max_retry_time: Duration,
    /// The shutdown waits for so long for the attempts in flight.
    drain: Duration,
    /// The requests in flight, with the update of each of their rows.
    attempts: JoinSet<Vec<RowUpdate>>,
    /// The rows of each.
    leases: HashMap<Id, Vec<LeasedRow>>,
    /// Outcomes that are not written yet.
    outcomes: Vec<LeasedOutcome>,
    /// Rows in flight that need no slot: nothing is sent.
    without_slot: HashSet<Id>,
    /// Each poll starts with another organization and endpoint, so that none is always the last.
    first_turn: usize,
    /// Endpoints with due rows that got no slot.
    waiting: WaitingEndpoints,
    /// Where the look for schedules that have ended continues.
    ended: Option<EndedCursor>,
    /// Waits until attempts can be reported again.
    probe: Option<AbortOnDropHandle<()>>,
}

impl RetryWorker {
    pub(crate) fn new(dependencies: &Dependencies, config: &DispatcherConfig) -> Self {
        Self {
            dependencies: dependencies.clone(),
            max_in_flight: config.max_retries_in_flight,
            max_retry_time: config.max_retry_time,
            drain: config.drain,
            attempts: JoinSet::new(),
            leases: HashMap::new(),
            outcomes: Vec::new(),
            without_slot: HashSet::new(),
            first_turn: 0,
            waiting: WaitingEndpoints::default(),
            ended: None,
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
                    if self.waiting.has_woken() {
                        next_poll = next_poll.min(Instant::now() + MIN_POLL_INTERVAL);
                    }
                }
                () = rows_added.notified() => next_poll = next_poll.min(Instant::now() + MIN_POLL_INTERVAL),
                () = tokio::time::sleep_until(next_poll) => {}
            }
            // A lane goes on at once: it has one attempt in flight, so each wait would count.
            if self.write_outcomes().await
                && self.can_claim()
                && let Err(error) = self.claim_due().await
            {
                warn!(%error, "Next deliveries of lanes could not be claimed; trying again with the next poll.");
            }
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

    /// Releases decided rows, claims due rows, starts their attempts, ends schedules, sweeps finished rows. Returns the
    /// time until the next poll.
    async fn poll(&mut self) -> Result<Duration, sqlx::Error> {
        let pool = self.dependencies.pool.clone();
        let has_more_decided = schedule::release_decided(&pool, MATERIALIZER, &self.dependencies.topic).await?;
        if self.can_claim() {
            self.claim_due().await?;
        }
        if self.can_claim() {
            self.claim_refused().await?;
        }
        self.ended = schedule::end_schedules(&pool, self.max_retry_time, self.ended).await?;
        let has_more_finished = schedule::sweep(&pool, CONSUMER, &self.dependencies.topic).await?;
        if has_more_decided || has_more_finished {
            return Ok(Duration::ZERO);
        }
        let next_due = schedule::next_due(&pool).await?.unwrap_or(f64::MAX);
        Ok(Duration::from_secs_f64(next_due.clamp(0.0, MAX_POLL_INTERVAL.as_secs_f64())))
    }

    /// Whether attempts may start. Those that wait for their report have freed their slot.
    fn can_claim(&mut self) -> bool {
        self.can_report() && self.attempts.len() < 2 * self.max_in_flight
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

    fn postpone(&mut self, row: &ClaimedRow, due_after: Duration) {
        let update = RowUpdate::pending(row.attempts, due_after);
        self.outcomes.push(LeasedOutcome { delivery_id: row.delivery.id, lease: row.lease, update });
    }

    fn attempt_finished(&mut self, finished: Result<(Id, Vec<RowUpdate>), JoinError>) {
        let (id, updates) = finished.unwrap_or_else(|error| {
            error!(%error, "Webhook attempt panicked; repeating it.");
            (error.id(), Vec::new())
        });
        self.without_slot.remove(&id);
        let mut updates = updates.into_iter();
        for LeasedRow { delivery_id, org_id, lease, attempts } in self.leases.remove(&id).unwrap_or_default() {
            self.waiting.wake(org_id);
            let update = updates.next().unwrap_or_else(|| RowUpdate::pending(attempts, PANICKED));
            self.outcomes.push(LeasedOutcome { delivery_id, lease, update });
        }
    }

    /// Outcomes wait while the database is unavailable. When their leases end, the attempts are repeated. `true`: a
    /// lane goes on.
    async fn write_outcomes(&mut self) -> bool {
        if self.outcomes.is_empty() {
            return false;
        }
        match self.try_write_outcomes().await {
            Ok(lane_goes_on) => {
                self.outcomes.clear();
                return lane_goes_on;
            }
            Err(error) if matches!(effect(&error), SqlEffect::Retry | SqlEffect::Unavailable) => {
                warn!(%error, "Database unavailable; retrying to write outcomes of attempts.");
                tokio::time::sleep(POSTPONED).await;
            }
            Err(error) => {
                error!(%error, "Outcomes of attempts could not be written; the attempts are repeated.");
                self.outcomes.clear();
            }
        }
        false
    }

    async fn try_write_outcomes(&self) -> Result<bool, sqlx::Error> {
        let mut transaction = runtime::postgres::begin(&self.dependencies.pool).await?;
        let lane_goes_on = schedule::write_outcomes(&mut transaction, &self.outcomes).await?;
        transaction.commit().await?;
        Ok(lane_goes_on)
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
