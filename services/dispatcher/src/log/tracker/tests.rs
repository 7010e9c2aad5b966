use schemas::ids::{DeliveryId, EventId, OrgId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::delivery::outbound_event;
use crate::delivery::{RowState, RowUpdate};
use crate::retry::schedule::{NewRow, ScheduledDeliveries};

const SPILL_AFTER: Duration = Duration::from_secs(1);

struct Harness {
    tracker: DeliveryTracker,
    started: Instant,
    endpoints: Vec<EndpointId>,
    /// Of the rows in one plan.
    max_bytes: usize,
}

impl Harness {
    fn new(queue_capacity: usize) -> Self {
        let mut harness = Self {
            tracker: DeliveryTracker::new(queue_capacity, Duration::from_secs(55)),
            started: Instant::now(),
            endpoints: (0..3).map(|_| EndpointId::generate()).collect(),
            max_bytes: usize::MAX,
        };
        harness.tracker.assign(&claim(1, 0), PartitionHistory::default());
        harness
    }

    /// A record of partition 0 at `offset` for the endpoints with these indexes, read at second `at`.
    fn enter(
        &mut self,
        offset: i64,
        endpoints: &[usize],
        may_be_duplicate: bool,
        at: u64,
    ) -> (Arc<OutboundEvent>, Vec<Undecided>) {
        let event = event(offset);
        let endpoints: Vec<EndpointId> = endpoints.iter().map(|index| self.endpoints[*index]).collect();
        let matched = (!endpoints.is_empty()).then(|| matched(&event, &endpoints, may_be_duplicate));
        let read = ReadRecord { partition: 0, offset, timestamp_ms: Some(offset * 10), matched };
        let undecided = self.tracker.track(read, self.started + Duration::from_secs(at));
        (event, undecided)
    }

    fn start(&mut self) -> (u64, Delivery) {
        self.start_next().unwrap()
    }

    fn start_next(&mut self) -> Option<(u64, Delivery)> {
        let (mut started, ()) = self.tracker.start(|_, _| Some(((), Room::ONE)))?;
        started.pop()
    }

    /// Spills everything that was read up to second `at`.
    fn spill_old(&mut self, at: u64) {
        self.tracker.spill_old(self.started + Duration::from_secs(at));
    }

    /// Commits the next plan. Returns its rows, its outcomes and the new position, if it advanced.
    fn commit(&mut self) -> (Vec<NewRow>, Vec<LeasedOutcome>, Option<i64>) {
        let plan = self.tracker.plan(self.max_bytes);
        self.tracker.committed(&plan.advances);
        let moved = plan.advances.first().filter(|one| one.next > one.expected).map(|one| one.next);
        (plan.rows, plan.outcomes, moved)
    }
}

fn matched(event: &Arc<OutboundEvent>, endpoints: &[EndpointId], may_be_duplicate: bool) -> MatchedEvent {
    let deliveries = endpoints.iter().map(|endpoint| Delivery::new(*endpoint, event.clone())).collect();
    MatchedEvent { event: event.clone(), deliveries, may_be_duplicate }
}

fn claim(epoch: i64, next_offset: i64) -> Claim {
    Claim { topic: Arc::from("events"), partition: 0, epoch, log_epoch: 1, next_offset }
}

/// An advance of the first claim.
fn advance(next: i64, record_time_ms: Option<i64>) -> Advance {
    Advance { topic: Arc::from("events"), partition: 0, epoch: 1, expected: 0, next, record_time_ms }
}

/// Attempts of a row that waits for its next one; `None`: it waits for the duplicate decision.
fn attempts(row: &NewRow) -> Option<u32> {
    match row.waits_for {
        WaitsFor::Attempt { attempts, .. } => Some(attempts),
        WaitsFor::Dedup => None,
    }
}

fn event(offset: i64) -> Arc<OutboundEvent> {
    let event = outbound_event(OrgId::from_uuid(Uuid::from_u128(1)));
    Arc::new(OutboundEvent { accepted_at: OffsetDateTime::UNIX_EPOCH, offset, ..event })
}

#[test]
fn unmatched_records_only_advance_the_position() {
    let mut harness = Harness::new(10);
    assert!(!harness.tracker.has_progress());
    harness.enter(0, &[], false, 0);
    harness.enter(5, &[], false, 0);
    assert_eq!(harness.commit(), (vec![], vec![], Some(6)));
    assert!(!harness.tracker.has_progress());
}

#[test]
fn the_position_waits_for_all_deliveries() {
    let mut harness = Harness::new(10);
    harness.enter(0, &[0, 1], false, 0);
    harness.enter(1, &[], false, 0);
    let (first, _) = harness.start();
    let (second, _) = harness.start();
    harness.tracker.attempt_finished(first, AttemptOutcome::Delivered);
    assert_eq!(harness.commit().2, None);
    harness.tracker.attempt_finished(second, AttemptOutcome::Delivered);
    assert_eq!(harness.commit(), (vec![], vec![], Some(2)));
}

#[test]
fn a_failed_attempt_is_scheduled_with_its_position() {
    let mut harness = Harness::new(10);
    let (event, _) = harness.enter(0, &[0], false, 0);
    let (ticket, delivery) = harness.start();
    assert_eq!(delivery, Delivery::new(harness.endpoints[0], event));
    harness
        .tracker
        .attempt_finished(ticket, AttemptOutcome::Retry { after: Duration::from_secs(30), batch_limit: Some(7) });
    let waits_for =
        WaitsFor::Attempt { attempts: 1, due_after: Duration::from_secs(30), lease: None, batch_limit: Some(7) };
    assert_eq!(harness.commit(), (vec![NewRow { delivery, waits_for }], vec![], Some(1)));
}

#[test]
fn an_exhausted_delivery_has_no_row_an_unreported_one_has() {
    let mut harness = Harness::new(10);
    harness.enter(0, &[0], false, 0);
    harness.enter(1, &[1], false, 0);
    let ((first, _), (second, _)) = (harness.start(), harness.start());
    harness.tracker.attempt_finished(first, AttemptOutcome::Failed);
    harness.tracker.attempt_finished(second, AttemptOutcome::Unreported);
    let (rows, _, moved) = harness.commit();
    assert_eq!((rows.len(), attempts(&rows[0]), moved), (1, Some(0), Some(2)));
}

#[test]
fn a_success_is_committed_with_its_position() {
    let mut harness = Harness::new(10);
    for (offset, counts_successes, outcome) in
        [(0, true, AttemptOutcome::Delivered), (1, false, AttemptOutcome::Delivered), (2, true, AttemptOutcome::Failed)]
    {
        let counted = OutboundEvent { counts_successes, endpoints_matched: Some(1), ..(*event(offset)).clone() };
        let matched = matched(&Arc::new(counted), &harness.endpoints[..1], false);
        let read = ReadRecord { partition: 0, offset, timestamp_ms: Some(0), matched: Some(matched) };
        harness.tracker.track(read, harness.started);
        let (ticket, _) = harness.start();
        harness.tracker.attempt_finished(ticket, outcome);
    }
    let plan = harness.tracker.plan(usize::MAX);
    let endpoints: Vec<EndpointId> = plan.successes.iter().map(|success| success.endpoint).collect();
    assert_eq!((endpoints, plan.advances[0].next), (vec![harness.endpoints[0]], 3));
    harness.tracker.committed(&plan.advances);
    assert!(!harness.tracker.has_progress());
}

#[test]
fn an_attempt_in_flight_is_spilled_under_a_lease() {
    let mut harness = Harness::new(10);
    harness.enter(0, &[0], false, 0);
    harness.enter(1, &[1], false, 5);
    let (hanging, delivery) = harness.start();
    harness.spill_old(0);
    let (rows, outcomes, moved) = harness.commit();
    let lease = rows[0].lease().unwrap();
    let due_after = Duration::from_secs(55);
    let waits_for = WaitsFor::Attempt { attempts: 0, due_after, lease: Some(lease), batch_limit: None };
    assert_eq!(rows, [NewRow { delivery: delivery.clone(), waits_for }]);
    assert_eq!((outcomes, moved), (vec![], Some(1)));
    harness.tracker.attempt_finished(hanging, AttemptOutcome::Delivered);
    let update = RowUpdate::finished(RowState::Delivered, 1);
    assert_eq!(harness.commit(), (vec![], vec![LeasedOutcome { delivery_id: delivery.id, lease, update }], None));
}

#[test]
fn old_and_overflowing_deliveries_are_spilled_due_now() {
    let mut harness = Harness::new(1);
    harness.enter(0, &[0], false, 0);
    harness.enter(1, &[0], false, 0);
    let (rows, _, moved) = harness.commit();
    assert_eq!((rows.len(), rows[0].delivery.event.offset, rows[0].waits_for, moved), (1, 1, DUE_NOW, None));
    harness.spill_old(0);
    let (rows, _, moved) = harness.commit();
    assert_eq!((rows.len(), rows[0].delivery.event.offset, moved), (1, 0, Some(2)));
    assert!(harness.start_next().is_none());
}

#[test]
fn a_duplicate_is_dropped_and_a_late_decision_ignored() {
    let mut harness = Harness::new(10);
    let (_, original) = harness.enter(0, &[0], true, 0);
    let (_, duplicate) = harness.enter(1, &[0], true, 0);
    let (_, open) = harness.enter(2, &[0], true, 0);
    assert!(harness.start_next().is_none());
    harness.tracker.apply_decision(original[0].ticket, true);
    harness.tracker.apply_decision(duplicate[0].ticket, false);
    let (ticket, delivery) = harness.start();
    assert_eq!(delivery.event.offset, 0);
    harness.tracker.attempt_finished(ticket, AttemptOutcome::Delivered);
    harness.spill_old(0);
    let (rows, _, moved) = harness.commit();
    assert_eq!((rows.len(), rows[0].waits_for, rows[0].delivery.event.offset, moved), (1, WaitsFor::Dedup, 2, Some(3)));
    // The decision comes too late: the delivery is in the schedule now.
    harness.tracker.apply_decision(open[0].ticket, true);
    assert!(harness.start_next().is_none());
}

#[test]
fn a_scheduled_delivery_is_not_started_again() {
    let mut harness = Harness::new(10);
    let (event, _) = harness.enter(0, &[0, 1], false, 0);
    let mut scheduled = ScheduledDeliveries::default();
    scheduled.add(DeliveryId::of(harness.endpoints[0], event.event_id), Some(0));
    harness.tracker.assign(&claim(2, 0), PartitionHistory { scheduled, record_time_ms: None });
    let matched = matched(&event, &harness.endpoints[..2], false);
    harness
        .tracker
        .track(ReadRecord { partition: 0, offset: 0, timestamp_ms: Some(0), matched: Some(matched) }, harness.started);
    assert_eq!(harness.start().1.endpoint_id, harness.endpoints[1]);
    assert!(harness.start_next().is_none());
}

#[test]
fn a_row_covers_only_its_own_record() {
    let started = |rows: &[Option<i64>]| {
        let mut harness = Harness::new(10);
        let id = EventId::generate();
        let mut scheduled = ScheduledDeliveries::default();
        rows.iter().for_each(|offset| scheduled.add(DeliveryId::of(harness.endpoints[0], id), *offset));
        harness.tracker.assign(&claim(2, 0), PartitionHistory { scheduled, record_time_ms: None });
        let mut started = Vec::new();
        for offset in [50, 100, 150] {
            let event = Arc::new(OutboundEvent { event_id: id, ..(*event(offset)).clone() });
            let matched = matched(&event, &harness.endpoints[..1], true);
            let read = ReadRecord { partition: 0, offset, timestamp_ms: Some(0), matched: Some(matched) };
            started.extend(harness.tracker.track(read, harness.started).iter().map(|one| one.event.offset));
        }
        started
    };
    assert_eq!(started(&[Some(100)]), [50, 150], "other records of the event wait for their own decision");
    assert_eq!(started(&[Some(100), Some(50)]), [150], "each of two rows of one delivery covers its record");
    assert!(started(&[None]).is_empty(), "a row of an older log epoch covers every record");
}

#[test]
fn nothing_of_an_earlier_assignment_is_committed() {
    let mut harness = Harness::new(10);
    harness.enter(0, &[0], false, 0);
    harness.enter(1, &[1], false, 0);
    let (in_flight, _) = harness.start();
    harness.tracker.assign(&claim(2, 0), PartitionHistory::default());
    harness.tracker.attempt_finished(in_flight, AttemptOutcome::Retry { after: Duration::ZERO, batch_limit: None });
    assert!(!harness.tracker.has_progress() && harness.start_next().is_none());
    harness.tracker.drop_lane(0);
    assert!(harness.enter(0, &[0], false, 0).1.is_empty() && harness.tracker.queue_depth() == 0);
}

#[test]
fn lag_comes_from_the_oldest_open_record_and_the_history() {
    let mut harness = Harness::new(10);
    harness
        .tracker
        .assign(&claim(2, 5), PartitionHistory { scheduled: ScheduledDeliveries::default(), record_time_ms: Some(7) });
    let position = |harness: &Harness| harness.tracker.reached().next().unwrap();
    assert_eq!(position(&harness), (0, CommitProgress { next_offset: 5, open_since_ms: None, last_done_ms: Some(7) }));
    harness.enter(5, &[], false, 0);
    harness.enter(6, &[0], false, 0);
    harness.commit();
    assert_eq!(
        position(&harness),
        (0, CommitProgress { next_offset: 6, open_since_ms: Some(60), last_done_ms: Some(50) })
    );
}

#[test]
fn a_late_fence_of_an_earlier_claim_is_ignored() {
    let mut harness = Harness::new(10);
    harness.tracker.assign(&claim(2, 0), PartitionHistory::default());
    assert!(!harness.tracker.drop_fenced(0, 1) && !harness.tracker.drop_fenced(1, 2));
    harness.enter(0, &[], false, 0);
    assert_eq!(harness.commit().2, Some(1));
    assert!(harness.tracker.drop_fenced(0, 2) && !harness.tracker.drop_fenced(0, 2));
    assert_eq!(harness.tracker.log_epoch(0), None);
}

#[test]
fn released_partitions_are_spilled_and_attempts_count() {
    let mut harness = Harness::new(10);
    harness.enter(0, &[0], false, 0);
    harness.enter(1, &[0], false, 0);
    harness.enter(2, &[1], true, 0);
    let (in_flight, _) = harness.start();
    harness.tracker.spill_all(None);
    let (rows, _, moved) = harness.commit();
    let kinds: Vec<_> =
        rows.iter().map(|row| (row.delivery.event.offset, attempts(row), row.lease().is_some())).collect();
    assert_eq!(kinds, [(0, Some(0), true), (1, Some(0), false), (2, None, false)]);
    assert_eq!(moved, Some(3));
    harness.tracker.drop_lane(0);
    harness.tracker.attempt_finished(in_flight, AttemptOutcome::Delivered);
    assert_eq!(harness.commit().1.len(), 1);
}

#[test]
fn a_row_is_fenced_even_if_the_position_cannot_advance() {
    let mut harness = Harness::new(1);
    harness.enter(0, &[0], false, 0);
    harness.enter(1, &[0], false, 0);
    let plan = harness.tracker.plan(usize::MAX);
    assert_eq!(plan.advances, [advance(0, None)]);
    assert_eq!(plan.rows.len(), 1);
}

#[test]
fn remaining_rows_delay_the_position_and_their_outcomes() {
    let mut harness = Harness::new(10);
    for offset in 0..3 {
        harness.enter(offset, &[0], false, 0);
    }
    let in_flight: Vec<(u64, Delivery)> = (0..3).map(|_| harness.start()).collect();
    harness.spill_old(0);
    harness.max_bytes = harness.tracker.row_bytes_waiting() - 1;
    harness.tracker.attempt_finished(in_flight[0].0, AttemptOutcome::Delivered);
    harness.tracker.attempt_finished(in_flight[2].0, AttemptOutcome::Delivered);
    let ids = |outcomes: &[LeasedOutcome]| outcomes.iter().map(|one| one.delivery_id).collect::<Vec<_>>();
    let plan = harness.tracker.plan(harness.max_bytes);
    assert_eq!(plan.advances, [advance(2, Some(20))]);
    assert_eq!((plan.rows.len(), ids(&plan.outcomes)), (2, vec![in_flight[0].1.id]));
    harness.tracker.committed(&plan.advances);
    assert!(harness.tracker.has_progress());
    let (rows, outcomes, moved) = harness.commit();
    assert_eq!((rows.len(), ids(&outcomes), moved), (1, vec![in_flight[2].1.id], Some(3)));
    assert!(!harness.tracker.has_progress() && harness.tracker.row_bytes_waiting() == 0);

    // A plan has at least one row, however large.
    harness.max_bytes = 0;
    harness.enter(3, &[0, 1], false, 0);
    harness.spill_old(0);
    assert_eq!((harness.commit().0.len(), harness.commit().2), (1, Some(4)));
}

#[test]
fn records_beyond_a_full_ledger_are_spilled_at_once() {
    let mut harness = Harness::new(100_000);
    let records = i64::try_from(crate::log::ledger::MAX_RECORDS).unwrap();
    for offset in 0..records {
        harness.enter(offset, &[0], false, 0);
    }
    assert_eq!(harness.tracker.rows_waiting(), 0);
    harness.enter(records, &[0], false, 0);
    assert_eq!(harness.tracker.rows_waiting(), 1);
}

mod lanes;
mod random;
