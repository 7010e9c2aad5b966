//! Which rows are claimed, and what happens to each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use runtime::budget::Permit;
use schemas::ids::{EndpointId, OrgId};
use schemas::records::DeliveryOutcome;
use tracing::warn;

use crate::attempt::attempter::{self, Attempt};
use crate::attempt::slots::{Grant, Pool, Slot};
use crate::delivery::{AttemptOutcome, RowState, RowUpdate};
use crate::endpoints::matching::{Endpoint, EndpointState, Snapshot};
use crate::retry::schedule::{self, Chosen, ClaimedRow, NextDue, Wanted};
use crate::retry::turns;

use super::batches::{MAX_BATCHED_ENDPOINTS, MAX_BATCHES_PER_ENDPOINT, PlannedBatch};
use super::{LeasedRow, RetryWorker};

/// Rows of one endpoint that one poll claims at most.
const MAX_CLAIMS_PER_ENDPOINT: usize = 64;
/// How long rows wait that cannot be attempted yet.
pub(super) const POSTPONED: Duration = Duration::from_secs(1);
/// How long rows wait at least that were refused by the rate limit of their endpoint.
const RATE_PAUSE: Duration = Duration::from_millis(200);
/// How long the rows of an endpoint wait that is enabled and cannot be used.
const UNUSABLE: Duration = Duration::from_secs(5);
/// Lease of a row that is only reported.
const REPORT_LEASE: Duration = Duration::from_secs(60);

/// What one poll does with the queues that it has locked.
#[derive(Default)]
pub(super) struct ClaimPlan {
    wanted: Vec<Wanted>,
    pub(super) slots: HashMap<EndpointId, Vec<Slot>>,
    /// Endpoints with batched delivery, with a slot for each request.
    pub(super) batched: Vec<(Arc<Endpoint>, Vec<Slot>)>,
    /// When the queues are due next, without those that are held.
    next_due: HashMap<EndpointId, NextDue>,
    withheld: Vec<EndpointId>,
}

impl ClaimPlan {
    pub(super) fn postpone(&mut self, endpoint: EndpointId, after: Duration) {
        self.next_due.insert(endpoint, NextDue::NotBefore(after));
    }

    fn claim(&mut self, wanted: Wanted) {
        self.postpone(wanted.endpoint, Duration::ZERO);
        self.wanted.push(wanted);
    }
}

impl RetryWorker {
    /// Claims due rows and starts their attempts.
    pub(super) async fn claim_due(&mut self) -> Result<(), sqlx::Error> {
        let pool = self.dependencies.pool.clone();
        let mut transaction = runtime::postgres::begin(&pool).await?;
        let locked = schedule::lock_due(&mut transaction, &self.waiting.take_woken()).await?;
        if locked.is_empty() {
            return transaction.rollback().await;
        }
        // After the lock: a change that made the queue due is seen, and not taken for one of an endpoint as it was.
        let snapshot = self.dependencies.endpoint_cache.current().await?;
        let mut plan = self.plan(locked, &snapshot);
        for held in schedule::hold(&mut transaction, &plan.withheld).await? {
            plan.next_due.remove(&held);
        }
        let (batches, mut claimed) = self.plan_batches(&mut transaction, &mut plan).await?;
        let chosen: Vec<Chosen> = batches.iter().flat_map(PlannedBatch::chosen).collect();
        claimed.extend(schedule::claim_chosen(&mut transaction, &chosen).await?);
        let lanes_first = self.first_turn.is_multiple_of(2);
        claimed.extend(schedule::claim(&mut transaction, &plan.wanted, lanes_first).await?);
        for wanted in plan.wanted.iter().filter(|wanted| wanted.before_due) {
            let count = claimed.iter().filter(|row| row.delivery.endpoint_id == wanted.endpoint).count();
            let next = if count == wanted.max_rows { NextDue::AtOnce } else { NextDue::IfAnyIsLeft(POSTPONED) };
            plan.next_due.insert(wanted.endpoint, next);
        }
        schedule::reset(&mut transaction, &plan.next_due.into_iter().collect::<Vec<_>>()).await?;
        transaction.commit().await?;
        self.start_attempts(claimed, plan.slots, batches).await;
        Ok(())
    }

    fn plan(&mut self, locked: Vec<(EndpointId, OrgId)>, snapshot: &Snapshot) -> ClaimPlan {
        let orgs: HashMap<EndpointId, OrgId> = locked.iter().copied().collect();
        self.first_turn = self.first_turn.wrapping_add(1);
        let mut plan = ClaimPlan::default();
        let mut unsent = self.room_without_slot();
        for id in turns::in_turn(locked.into_iter().map(|(id, org_id)| (org_id, id)), self.first_turn) {
            match snapshot.state(id) {
                EndpointState::Enabled(endpoint)
                    if endpoint.batch.is_some() && plan.batched.len() == MAX_BATCHED_ENDPOINTS =>
                {
                    plan.postpone(id, Duration::ZERO);
                }
                EndpointState::Enabled(endpoint) => match self.take_slots(endpoint) {
                    Ok(granted) if endpoint.batch.is_some() => {
                        plan.postpone(id, Duration::ZERO);
                        plan.batched.push((endpoint.clone(), granted));
                    }
                    Ok(granted) => {
                        let (max_rows, lease) = (granted.len(), attempter::lease(endpoint.timeout));
                        plan.claim(Wanted { endpoint: id, max_rows, lease, before_due: false });
                        plan.slots.insert(id, granted);
                    }
                    // The end of an attempt gives no place on a rate limit.
                    Err(NoSlot::RateLimited(after)) => plan.postpone(id, after),
                    Err(NoSlot::Taken(after)) => {
                        plan.postpone(id, after);
                        orgs.get(&id).into_iter().for_each(|org_id| self.waiting.add(*org_id, id));
                    }
                },
                EndpointState::Withheld => {
                    plan.withheld.push(id);
                    plan.postpone(id, UNUSABLE);
                }
                EndpointState::Gone if unsent == 0 => plan.postpone(id, POSTPONED),
                EndpointState::Gone => {
                    let max_rows = unsent.min(MAX_CLAIMS_PER_ENDPOINT);
                    unsent -= max_rows;
                    plan.claim(Wanted { endpoint: id, max_rows, lease: REPORT_LEASE, before_due: true });
                }
            }
        }
        plan
    }

    /// Reports refused rows as failed.
    pub(super) async fn claim_refused(&mut self) -> Result<(), sqlx::Error> {
        let room = self.room_without_slot();
        if room == 0 {
            return Ok(());
        }
        for row in schedule::claim_refused(&self.dependencies.pool, room, REPORT_LEASE).await? {
            let reason = row.refusal.clone().unwrap_or_default();
            self.end(row, RowState::Failed, reason);
        }
        Ok(())
    }

    /// Rows without an attempt that may be reported at the same time, besides those that are.
    fn room_without_slot(&self) -> usize {
        (self.max_in_flight / 5).max(1).saturating_sub(self.without_slot.len())
    }

    /// Slots for retries of an endpoint, as many as it may have now; at least one.
    ///
    /// # Errors
    /// There is none.
    fn take_slots(&self, endpoint: &Endpoint) -> Result<Vec<Slot>, NoSlot> {
        let now = std::time::Instant::now();
        let most = if endpoint.batch.is_some() { MAX_BATCHES_PER_ENDPOINT } else { MAX_CLAIMS_PER_ENDPOINT };
        let mut granted = Vec::new();
        while granted.len() < most {
            match self.dependencies.slots.take(Pool::Retries, endpoint, now) {
                Grant::Slot(slot) => granted.push(slot),
                Grant::Busy if granted.is_empty() => return Err(NoSlot::Taken(POSTPONED)),
                Grant::Blocked(after) if granted.is_empty() => return Err(NoSlot::Taken(after)),
                // Places on the rate limit are used up to 0.9 s late, so several are claimed together.
                Grant::RateLimited(after) if granted.is_empty() => {
                    return Err(NoSlot::RateLimited(after.max(RATE_PAUSE)));
                }
                Grant::Busy | Grant::Blocked(_) | Grant::RateLimited(_) => break,
            }
        }
        Ok(granted)
    }

    /// Reads the endpoints once more: they may have been deleted before the rows were claimed.
    async fn start_attempts(
        &mut self,
        claimed: Vec<ClaimedRow>,
        mut slots: HashMap<EndpointId, Vec<Slot>>,
        batches: Vec<PlannedBatch>,
    ) {
        let snapshot = match self.dependencies.endpoint_cache.current().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                warn!(%error, "Endpoints could not be read; claimed deliveries are postponed.");
                claimed.iter().for_each(|row| self.postpone(row, POSTPONED));
                return;
            }
        };
        for row in self.start_batches(claimed, batches, &snapshot) {
            let slot = slots.get_mut(&row.delivery.endpoint_id).and_then(Vec::pop);
            match (action(&row, &snapshot), slot) {
                (RowAction::End(state, reason), _) => self.end(row, state, reason),
                (RowAction::Attempt(endpoint), Some(slot)) => self.attempt(row, endpoint.clone(), slot),
                (RowAction::Attempt(_) | RowAction::Wait, _) => self.postpone(&row, POSTPONED),
            }
        }
    }

    fn attempt(&mut self, row: ClaimedRow, endpoint: Arc<Endpoint>, slot: Slot) {
        let leased = LeasedRow::of(&row);
        let attempts = vec![Attempt { number: row.attempts + 1, delivery: row.delivery }];
        self.spawn_attempts(endpoint, attempts, vec![leased], slot, None);
    }

    /// Makes an attempt of these rows in one request. `permit`: of a batch.
    pub(super) fn spawn_attempts(
        &mut self,
        endpoint: Arc<Endpoint>,
        attempts: Vec<Attempt>,
        leased: Vec<LeasedRow>,
        slot: Slot,
        permit: Option<Permit>,
    ) {
        let attempter = self.dependencies.attempter.clone();
        // Boxed, because starting a task moves its future several times, and this one is large.
        let task = Box::pin(async move {
            let outcomes = attempter.attempt(&endpoint, &attempts, slot).await;
            drop(permit);
            outcomes.into_iter().zip(&attempts).map(|(outcome, attempt)| outcome.row_update(attempt.number)).collect()
        });
        self.leases.insert(self.attempts.spawn(task).id(), leased);
    }

    /// Ends a delivery without another attempt: reports it, and finishes its row.
    pub(super) fn end(&mut self, row: ClaimedRow, state: RowState, reason: String) {
        let (attempter, attempts) = (self.dependencies.attempter.clone(), row.attempts);
        let outcome = match state {
            RowState::Cancelled => DeliveryOutcome::Cancelled,
            _ => DeliveryOutcome::Failed,
        };
        let leased = LeasedRow::of(&row);
        let task = async move {
            vec![if attempter.end(&row.delivery, attempts, outcome, reason).await {
                RowUpdate::finished(state, attempts)
            } else {
                AttemptOutcome::Unreported.row_update(attempts + 1)
            }]
        };
        let id = self.attempts.spawn(task).id();
        self.without_slot.insert(id);
        self.leases.insert(id, vec![leased]);
    }
}

impl LeasedRow {
    pub(super) fn of(row: &ClaimedRow) -> Self {
        let (delivery_id, org_id) = (row.delivery.id, row.delivery.event.org_id);
        Self { delivery_id, org_id, lease: row.lease, attempts: row.attempts }
    }
}

/// Why there is no slot, and after how long there may be one.
enum NoSlot {
    /// They are taken, or the endpoint gets nothing now. The end of an attempt may change that.
    Taken(Duration),
    RateLimited(Duration),
}

pub(super) enum RowAction<'a> {
    Attempt(&'a Arc<Endpoint>),
    /// The endpoint was disabled after the row was claimed, or cannot be used.
    Wait,
    End(RowState, String),
}

pub(super) fn action<'a>(row: &ClaimedRow, snapshot: &'a Snapshot) -> RowAction<'a> {
    let cancel = |reason: &str| RowAction::End(RowState::Cancelled, reason.to_owned());
    match snapshot.state(row.delivery.endpoint_id) {
        EndpointState::Gone => cancel("the endpoint was deleted"),
        // Only retries are cancelled: a first attempt is sent as it would have been from the log. A delivery that was
        // retried by hand is wanted, acknowledged or not.
        _ if row.acknowledged && row.attempts > 0 && row.delivery.round.number == 0 => {
            cancel("the event was acknowledged")
        }
        _ if row.refusal.is_some() => RowAction::End(RowState::Failed, row.refusal.clone().unwrap_or_default()),
        EndpointState::Withheld => RowAction::Wait,
        EndpointState::Enabled(endpoint) => RowAction::Attempt(endpoint),
    }
}
