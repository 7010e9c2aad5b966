//! The schedule at work: claims due rows, makes their attempts and writes down how they ended. It also has rows decided
//! that wait for the duplicate decision, and sweeps finished ones. The statements are in `rows`.

use std::collections::HashMap;
use std::time::Duration;

use platform::postgres::{SqlEffect, effect};
use schemas::ids::{DeliveryId, EndpointId};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};
use uuid::Uuid;

use crate::CONSUMER;
use crate::delivery::{Landing, Outcome, RowState};
use crate::flight;
use crate::matching::{Snapshot, Standing};
use crate::metrics::METRICS;
use crate::pass::Parts;
use crate::rows::{self, Claimed, Settlement};
use crate::slots::Slot;
use crate::verdicts::MATERIALIZER;

/// Longest time between two looks at the schedule.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two looks: news comes in bursts.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(20);
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// Rows of one endpoint that are taken at once.
const CLAIMED_PER_ENDPOINT: usize = 64;
/// How long a row that could not be attempted after all waits.
const POSTPONED: Duration = Duration::from_secs(1);
/// How long a row waits whose endpoint is there and cannot be used.
const UNUSABLE: Duration = Duration::from_secs(60);
const CANCEL_LEASE: Duration = Duration::from_secs(60);

pub(crate) struct Retries {
    parts: Parts,
    most: usize,
    drain: Duration,
    flights: JoinSet<Outcome>,
    leases: HashMap<Id, (DeliveryId, Uuid, u32)>,
    settlements: Vec<Settlement>,
    /// Where the next round over the endpoints begins, so that none is always last.
    turn: usize,
    /// There was more due than could be taken.
    more: bool,
    /// Finds out when attempts can be reported again.
    probing: Option<AbortOnDropHandle<()>>,
}

impl Retries {
    /// At most `most` attempts at once; at the end they are waited for at most `drain`.
    pub(crate) fn new(parts: &Parts, most: usize, drain: Duration) -> Self {
        Self {
            parts: parts.clone(),
            most,
            drain,
            flights: JoinSet::new(),
            leases: HashMap::new(),
            settlements: Vec::new(),
            turn: 0,
            more: false,
            probing: None,
        }
    }
}

/// Works until `shutdown`, then waits for the attempts under way.
pub(crate) async fn run(mut retries: Retries, shutdown: CancellationToken) {
    let scheduled = retries.parts.scheduled.clone();
    let mut next_look = Instant::now();
    let mut next_count = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(landed) = retries.flights.join_next_with_id() => {
                retries.land(landed);
                while let Some(landed) = retries.flights.try_join_next_with_id() {
                    retries.land(landed);
                }
                if retries.more {
                    next_look = next_look.min(Instant::now() + LOOK_AT_MOST_EVERY);
                }
            }
            () = scheduled.notified() => next_look = next_look.min(Instant::now() + LOOK_AT_MOST_EVERY),
            () = tokio::time::sleep_until(next_look) => {}
        }
        retries.settle().await;
        if Instant::now() >= next_look {
            let wait = match retries.look().await {
                Ok(wait) => wait,
                Err(error) => {
                    warn!(%error, "The schedule cannot be read at the moment; trying again.");
                    LOOK_EVERY
                }
            };
            next_look = Instant::now() + wait.clamp(LOOK_AT_MOST_EVERY, LOOK_EVERY);
        }
        if Instant::now() >= next_count {
            next_count = Instant::now() + COUNT_EVERY;
            if let Ok(rows) = rows::depth(&retries.parts.pool).await {
                METRICS.schedule_depth.set(rows as f64);
            }
        }
    }
    retries.finish().await;
}

impl Retries {
    /// One look: decide, take what is due, begin it, sweep. Answers when the next look is due.
    async fn look(&mut self) -> Result<Duration, sqlx::Error> {
        let pool = self.parts.pool.clone();
        let is_more_to_decide = rows::decide(&pool, MATERIALIZER, &self.parts.topic).await?;
        let due = rows::due_endpoints(&pool).await?;
        let wait = due
            .iter()
            .map(|(_, seconds)| seconds.max(0.0))
            .filter(|seconds| *seconds > 0.0)
            .fold(LOOK_EVERY.as_secs_f64(), f64::min);
        let due: Vec<EndpointId> = due.into_iter().filter(|(_, seconds)| *seconds <= 0.0).map(|(id, _)| id).collect();
        let mut wait = Duration::from_secs_f64(wait);
        if self.may_begin() && !due.is_empty() && self.take(&due).await? {
            wait = Duration::ZERO;
        }
        let is_more_to_sweep = rows::sweep(&pool, CONSUMER, &self.parts.topic).await?;
        if is_more_to_decide || is_more_to_sweep {
            wait = Duration::ZERO;
        }
        Ok(wait)
    }

    /// Whether attempts can be reported. If not, one task finds out when they can, for the pass too.
    fn may_begin(&mut self) -> bool {
        let reporter = self.parts.reporter.clone();
        let is_heard = reporter.is_heard();
        if !is_heard && self.probing.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            self.probing = Some(AbortOnDropHandle::new(tokio::spawn(async move { reporter.probe().await })));
        }
        is_heard
    }

    /// Takes due rows of these endpoints and begins their attempts. `true`: there may be more to take at once.
    async fn take(&mut self, due: &[EndpointId]) -> Result<bool, sqlx::Error> {
        let snapshot = self.parts.directory.current().await?;
        let mut left = self.most.saturating_sub(self.flights.len());
        let mut slots: HashMap<EndpointId, Vec<Slot>> = HashMap::new();
        let mut wanted = Vec::new();
        self.turn = self.turn.wrapping_add(1);
        let begin = self.turn % due.len();
        self.more = false;
        for id in due[begin..].iter().chain(&due[..begin]) {
            let rows = left.min(CLAIMED_PER_ENDPOINT);
            let (rows, lease) = match snapshot.standing(*id) {
                Standing::Enabled(endpoint) => {
                    let granted: Vec<Slot> =
                        (0..rows).map_while(|_| self.parts.slots.take(*id, endpoint.max_in_flight)).collect();
                    let rows = granted.len();
                    slots.insert(*id, granted);
                    (rows, flight::lease(endpoint.timeout))
                }
                Standing::Withheld | Standing::Gone => (rows, CANCEL_LEASE),
            };
            left -= rows;
            if rows == 0 {
                self.more = true;
            } else {
                wanted.push((*id, rows, lease));
            }
        }
        let taken = rows::claim(&self.parts.pool, &wanted).await?;
        let of = |id: EndpointId| taken.iter().filter(|row| row.delivery.endpoint_id == id).count();
        self.more |= wanted.iter().any(|(id, rows, _)| of(*id) == *rows);
        let has_taken = !taken.is_empty();
        self.begin(taken, slots).await;
        Ok(self.more && has_taken && self.flights.len() < self.most)
    }

    /// Begins what was taken. Endpoints are read once more: between the first reading and now they may have been
    /// deleted.
    async fn begin(&mut self, taken: Vec<Claimed>, mut slots: HashMap<EndpointId, Vec<Slot>>) {
        let snapshot = match self.parts.directory.current().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                warn!(%error, "Endpoints cannot be read at the moment; rows are put back.");
                taken.iter().for_each(|row| self.put_back(row, POSTPONED));
                return;
            }
        };
        let mut disabled = Vec::new();
        for row in taken {
            let slot = slots.get_mut(&row.delivery.endpoint_id).and_then(Vec::pop);
            match decide(&row, &snapshot) {
                Step::Cancel(reason) => self.cancel(row, reason),
                Step::Hold => disabled.push(row),
                Step::Attempt => match slot {
                    Some(slot) => self.attempt(row, &snapshot, slot),
                    None => self.put_back(&row, POSTPONED),
                },
            }
        }
        self.hold(disabled).await;
    }

    fn attempt(&mut self, row: Claimed, snapshot: &Snapshot, slot: Slot) {
        let Standing::Enabled(endpoint) = snapshot.standing(row.delivery.endpoint_id) else { return };
        let (pilot, endpoint, attempt) = (self.parts.pilot.clone(), endpoint.clone(), row.attempts + 1);
        let delivery = row.delivery.clone();
        let flight =
            self.flights.spawn(async move { pilot.fly(&endpoint, &delivery, attempt, slot).await.outcome(attempt) });
        self.leases.insert(flight.id(), (row.delivery.id, row.lease, row.attempts));
    }

    fn cancel(&mut self, row: Claimed, reason: &'static str) {
        let (pilot, delivery, attempts) = (self.parts.pilot.clone(), row.delivery.clone(), row.attempts);
        let flight = self.flights.spawn(async move {
            if pilot.cancel(&delivery, attempts, reason).await {
                Outcome::Ended { state: RowState::Cancelled, attempts }
            } else {
                Landing::Unreported.outcome(attempts + 1)
            }
        });
        self.leases.insert(flight.id(), (row.delivery.id, row.lease, row.attempts));
    }

    async fn hold(&mut self, disabled: Vec<Claimed>) {
        if disabled.is_empty() {
            return;
        }
        let leases: Vec<(DeliveryId, Uuid)> = disabled.iter().map(|row| (row.delivery.id, row.lease)).collect();
        let held = match rows::hold(&self.parts.pool, &leases).await {
            Ok(held) => held,
            Err(error) => {
                warn!(%error, "Rows of disabled endpoints could not be held; they come up again.");
                return;
            }
        };
        // Enabled again just now, or there and unusable.
        disabled.iter().filter(|row| !held.contains(&row.delivery.id)).for_each(|row| self.put_back(row, UNUSABLE));
    }

    fn put_back(&mut self, row: &Claimed, after: Duration) {
        let outcome = Outcome::Again { attempts: row.attempts, after };
        self.settlements.push(Settlement { delivery_id: row.delivery.id, lease: row.lease, outcome });
    }

    fn land(&mut self, landed: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match landed {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => {
                error!(%error, "An attempt panicked; it is made again.");
                (error.id(), None)
            }
        };
        if let Some((delivery_id, lease, attempts)) = self.leases.remove(&id) {
            let outcome = outcome.unwrap_or(Outcome::Again { attempts, after: UNUSABLE });
            self.settlements.push(Settlement { delivery_id, lease, outcome });
        }
    }

    /// Writes down how attempts ended. Without the database they wait; past their leases they are attempted again.
    async fn settle(&mut self) {
        if self.settlements.is_empty() {
            return;
        }
        let outcome = match self.parts.pool.acquire().await {
            Ok(mut connection) => rows::settle(&mut connection, &self.settlements).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => self.settlements.clear(),
            Err(error) if matches!(effect(&error), SqlEffect::Retry | SqlEffect::Unavailable) => {
                warn!(%error, "Outcomes of attempts cannot be written at the moment; trying again.");
                tokio::time::sleep(POSTPONED).await;
            }
            Err(error) => {
                error!(%error, "Outcomes of attempts could not be written; the attempts are made again.");
                self.settlements.clear();
            }
        }
    }

    async fn finish(&mut self) {
        let until = Instant::now() + self.drain;
        while let Ok(Some(landed)) = tokio::time::timeout_at(until, self.flights.join_next_with_id()).await {
            self.land(landed);
        }
        self.settle().await;
    }
}

enum Step {
    Attempt,
    Hold,
    Cancel(&'static str),
}

fn decide(row: &Claimed, snapshot: &Snapshot) -> Step {
    match snapshot.standing(row.delivery.endpoint_id) {
        Standing::Gone => Step::Cancel("the endpoint was deleted"),
        // Only a repeat: what is spilled before its first attempt is sent as it would have been from the log.
        _ if row.acknowledged && row.attempts > 0 => Step::Cancel("the event was acknowledged"),
        Standing::Withheld => Step::Hold,
        Standing::Enabled(_) => Step::Attempt,
    }
}
