//! Retries of endpoints with batched delivery: which rows share a request. `batch::gather` decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use runtime::budget::Permit;
use schemas::ids::{DeliveryId, EndpointId};
use sqlx::postgres::PgConnection;

use crate::attempt::attempter::{self, Attempt};
use crate::attempt::slots::Slot;
use crate::batch::gather;
use crate::batch::settings::BatchSettings;
use crate::endpoints::matching::{Endpoint, Snapshot};
use crate::retry::schedule::{self, Chosen, ClaimedRow, Wanted};

use super::claims::{ClaimPlan, POSTPONED, RowAction, action};
use super::{LeasedRow, RetryWorker};

/// Endpoints with batched delivery that one poll claims of; the others are still due at the next one.
pub(super) const MAX_BATCHED_ENDPOINTS: usize = 16;
/// Requests to one of them that one poll starts.
pub(super) const MAX_BATCHES_PER_ENDPOINT: usize = 16;
/// Due rows of one of them that one poll looks at.
const MAX_CANDIDATES: usize = 1000;

/// A request whose rows are about to be claimed.
pub(super) struct PlannedBatch {
    settings: BatchSettings,
    ids: Vec<DeliveryId>,
    lease: Duration,
    slot: Slot,
    permit: Permit,
}

impl PlannedBatch {
    pub(super) fn chosen(&self) -> impl Iterator<Item = Chosen> {
        self.ids.iter().map(|delivery| Chosen { delivery: *delivery, lease: self.lease })
    }
}

impl RetryWorker {
    /// Chooses the rows of each request to the batched endpoints of `plan`, whose queues are locked. Rows that are left
    /// from when such an endpoint was ordered go alone: they are claimed, and get their slots in `plan`.
    pub(super) async fn plan_batches(
        &mut self,
        connection: &mut PgConnection,
        plan: &mut ClaimPlan,
    ) -> Result<(Vec<PlannedBatch>, Vec<ClaimedRow>), sqlx::Error> {
        let mut batched = std::mem::take(&mut plan.batched);
        let first_of_lanes = |(endpoint, slots): &(Arc<Endpoint>, Vec<Slot>)| {
            let lease = attempter::lease(endpoint.timeout);
            Wanted { endpoint: endpoint.id, max_rows: slots.len(), lease, before_due: false }
        };
        let wanted: Vec<Wanted> = batched.iter().map(first_of_lanes).collect();
        let of_lanes = schedule::claim_first(connection, &wanted).await?;
        for row in &of_lanes {
            let id = row.delivery.endpoint_id;
            let slots = batched.iter_mut().find(|(endpoint, _)| endpoint.id == id).and_then(|(_, slots)| slots.pop());
            plan.slots.entry(id).or_default().extend(slots);
        }
        let rows = |(endpoint, slots): &(Arc<Endpoint>, Vec<Slot>)| {
            let rows = endpoint.batch.map_or(1, |settings| settings.max_events()) * slots.len();
            (endpoint.id, rows.min(MAX_CANDIDATES))
        };
        let wanted: Vec<(EndpointId, usize)> = batched.iter().map(rows).collect();
        let mut due = schedule::candidates(connection, &wanted).await?;
        let mut batches = Vec::new();
        for (endpoint, slots) in batched {
            let Some(settings) = endpoint.batch else { continue };
            let groups = gather::group(&settings, due.remove(&endpoint.id).unwrap_or_default(), slots.len());
            for (group, slot) in groups.into_iter().zip(slots) {
                let bytes = &self.dependencies.batch_bytes;
                let Some(permit) = bytes.take(endpoint.org_id, group.ids.len(), group.bytes) else {
                    plan.postpone(endpoint.id, POSTPONED);
                    self.waiting.add(endpoint.org_id, endpoint.id);
                    break;
                };
                let lease = attempter::lease(endpoint.timeout);
                batches.push(PlannedBatch { settings, ids: group.ids, lease, slot, permit });
            }
        }
        Ok((batches, of_lanes))
    }

    /// Starts the requests with those of their rows that were claimed and still need an attempt. Returns the claimed
    /// rows that are in none of them.
    pub(super) fn start_batches(
        &mut self,
        claimed: Vec<ClaimedRow>,
        batches: Vec<PlannedBatch>,
        snapshot: &Snapshot,
    ) -> Vec<ClaimedRow> {
        let ids = |(index, batch): (usize, &PlannedBatch)| batch.ids.iter().map(|id| (*id, index)).collect::<Vec<_>>();
        let index: HashMap<DeliveryId, usize> = batches.iter().enumerate().flat_map(ids).collect();
        let mut rows: Vec<Vec<ClaimedRow>> = batches.iter().map(|_| Vec::new()).collect();
        let mut others = Vec::new();
        for row in claimed {
            let of_batch = index.get(&row.delivery.id).and_then(|index| rows.get_mut(*index));
            of_batch.unwrap_or(&mut others).push(row);
        }
        for (batch, rows) in batches.into_iter().zip(rows) {
            self.start_batch(batch, rows, snapshot);
        }
        others
    }

    fn start_batch(&mut self, batch: PlannedBatch, rows: Vec<ClaimedRow>, snapshot: &Snapshot) {
        let (mut target, mut attempts, mut leased) = (None, Vec::new(), Vec::new());
        for row in rows {
            match action(&row, snapshot) {
                RowAction::End(state, reason) => self.end(row, state, reason),
                RowAction::Attempt(endpoint) if endpoint.batch == Some(batch.settings) => {
                    target = Some(endpoint.clone());
                    leased.push(LeasedRow::of(&row));
                    attempts.push(Attempt { number: row.attempts + 1, delivery: row.delivery });
                }
                // The endpoint was changed a moment ago: its rows are chosen again.
                RowAction::Attempt(_) | RowAction::Wait => self.postpone(&row, POSTPONED),
            }
        }
        if let Some(endpoint) = target {
            self.spawn_attempts(endpoint, attempts, leased, batch.slot, Some(batch.permit));
        }
    }
}
