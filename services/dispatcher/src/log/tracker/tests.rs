//! What may be committed, spilled and started, and when.

use schemas::ids::{DeliveryId, EventId, OrgId};
use time::OffsetDateTime;

use super::*;
use crate::delivery::RowState;

const SPILL_AFTER: Duration = Duration::from_secs(1);

struct Harness {
    tracker: DeliveryTracker,
    begun: Instant,
    endpoints: Vec<EndpointId>,
    /// Of rows in one plan.
    max_bytes: usize,
}

impl Harness {
    fn new(queue_capacity: usize) -> Self {
        let mut harness = Self {
            tracker: DeliveryTracker::new(queue_capacity, Duration::from_secs(55)),
            begun: Instant::now(),
            endpoints: (0..3).map(|_| EndpointId::generate()).collect(),
            max_bytes: usize::MAX,
        };
        harness.tracker.assign(&claim(1, 0), Before::default());
        harness
    }

    /// A record of partition 0 at `offset` for the endpoints named by their numbers, read at second `at`.
    fn enter(&mut self, offset: i64, endpoints: &[usize], keyed: bool, at: u64) -> (Arc<Accepted>, Vec<Undecided>) {
        let event = event(offset);
        let endpoints: Vec<EndpointId> = endpoints.iter().map(|index| self.endpoints[*index]).collect();
        let matched = (!endpoints.is_empty()).then(|| Matched { event: event.clone(), endpoints, keyed });
        let read = Read { partition: 0, offset, timestamp_ms: Some(offset * 10), matched };
        let undecided = self.tracker.enter(read, self.begun + Duration::from_secs(at));
        (event, undecided)
    }

    fn start(&mut self) -> (u64, Delivery) {
        let (ticket, delivery, ()) = self.tracker.start(|_| Some(())).unwrap();
        (ticket, delivery)
    }

    /// Everything read up to second `at` is old now.
    fn age(&mut self, at: u64) {
        self.tracker.age(self.begun + Duration::from_secs(at));
    }

    /// Takes the plan and commits it; answers its rows and where the position then stands, if it moved.
    fn commit(&mut self) -> (Vec<NewRow>, Vec<Settlement>, Option<i64>) {
        let plan = self.tracker.plan(self.max_bytes);
        self.tracker.committed(&plan.moves);
        let moved = plan.moves.first().filter(|one| one.next > one.expected).map(|one| one.next);
        (plan.rows, plan.settlements, moved)
    }
}

fn claim(epoch: i64, next_offset: i64) -> Claim {
    Claim { topic: Arc::from("events"), partition: 0, epoch, log_epoch: 1, next_offset }
}

/// A move of the first claim.
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

fn event(offset: i64) -> Arc<Accepted> {
    Arc::new(Accepted {
        org_id: OrgId::generate(),
        event_id: EventId::generate(),
        event_type: "a".to_owned(),
        accepted_at: OffsetDateTime::UNIX_EPOCH,
        payload: "{}".to_owned(),
        traceparent: None,
        log_epoch: 1,
        partition: 0,
        offset,
    })
}

#[test]
fn records_for_nobody_only_move_the_position() {
    let mut harness = Harness::new(10);
    assert!(!harness.tracker.has_progress());
    harness.enter(0, &[], false, 0);
    harness.enter(5, &[], false, 0);
    assert_eq!(harness.commit(), (vec![], vec![], Some(6)));
    assert!(!harness.tracker.has_progress());
}

#[test]
fn the_position_waits_for_what_is_delivered() {
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
fn a_failed_attempt_becomes_a_row_in_the_transaction_that_passes_it() {
    let mut harness = Harness::new(10);
    let (event, _) = harness.enter(0, &[0], false, 0);
    let (ticket, delivery) = harness.start();
    assert_eq!(delivery, Delivery::new(harness.endpoints[0], event));
    harness.tracker.attempt_finished(ticket, AttemptOutcome::Retry { after: Duration::from_secs(30) });
    let waits_for = WaitsFor::Attempt { attempts: 1, due_after: Duration::from_secs(30), lease: None };
    assert_eq!(harness.commit(), (vec![NewRow { delivery, waits_for }], vec![], Some(1)));
}

#[test]
fn an_exhausted_delivery_needs_no_row_and_an_unreported_one_is_made_again() {
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
fn what_hangs_is_spilled_under_a_lease_and_its_outcome_settles_the_row() {
    let mut harness = Harness::new(10);
    harness.enter(0, &[0], false, 0);
    harness.enter(1, &[1], false, 5);
    let (hanging, delivery) = harness.start();
    harness.age(0);
    let (rows, settlements, moved) = harness.commit();
    let lease = rows[0].lease().unwrap();
    let waits_for = WaitsFor::Attempt { attempts: 0, due_after: Duration::from_secs(55), lease: Some(lease) };
    assert_eq!(rows, [NewRow { delivery: delivery.clone(), waits_for }]);
    assert_eq!((settlements, moved), (vec![], Some(1)));
    harness.tracker.attempt_finished(hanging, AttemptOutcome::Delivered);
    let outcome = Outcome::Ended { state: RowState::Delivered, attempts: 1 };
    assert_eq!(harness.commit(), (vec![], vec![Settlement { delivery_id: delivery.id, lease, outcome }], None));
}

#[test]
fn what_waits_too_long_or_meets_a_full_queue_is_spilled_due_at_once() {
    let mut harness = Harness::new(1);
    harness.enter(0, &[0], false, 0);
    harness.enter(1, &[0], false, 0);
    let (rows, _, moved) = harness.commit();
    assert_eq!((rows.len(), rows[0].delivery.event.offset, rows[0].waits_for, moved), (1, 1, DUE_NOW, None));
    harness.age(0);
    let (rows, _, moved) = harness.commit();
    assert_eq!((rows.len(), rows[0].delivery.event.offset, moved), (1, 0, Some(2)));
    assert!(harness.tracker.start(|_| Some(())).is_none());
}

#[test]
fn a_keyed_event_waits_for_its_decision_and_a_duplicate_is_dropped() {
    let mut harness = Harness::new(10);
    let (_, original) = harness.enter(0, &[0], true, 0);
    let (_, duplicate) = harness.enter(1, &[0], true, 0);
    let (_, open) = harness.enter(2, &[0], true, 0);
    assert!(harness.tracker.start(|_| Some(())).is_none());
    harness.tracker.apply_decision(original[0].ticket, true);
    harness.tracker.apply_decision(duplicate[0].ticket, false);
    let (ticket, delivery) = harness.start();
    assert_eq!(delivery.event.offset, 0);
    harness.tracker.attempt_finished(ticket, AttemptOutcome::Delivered);
    harness.age(0);
    let (rows, _, moved) = harness.commit();
    assert_eq!((rows.len(), rows[0].waits_for, rows[0].delivery.event.offset, moved), (1, WaitsFor::Dedup, 2, Some(3)));
    // The duplicate decision comes too late: the schedule has it now.
    harness.tracker.apply_decision(open[0].ticket, true);
    assert!(harness.tracker.start(|_| Some(())).is_none());
}

#[test]
fn what_was_scheduled_in_an_earlier_life_is_not_begun_again() {
    let mut harness = Harness::new(10);
    let (event, _) = harness.enter(0, &[0, 1], false, 0);
    let mut scheduled = Scheduled::default();
    scheduled.add(DeliveryId::of(harness.endpoints[0], event.event_id), Some(0));
    harness.tracker.assign(&claim(2, 0), Before { scheduled, record_time_ms: None });
    let matched = Matched { event: event.clone(), endpoints: harness.endpoints[..2].to_vec(), keyed: false };
    harness
        .tracker
        .enter(Read { partition: 0, offset: 0, timestamp_ms: Some(0), matched: Some(matched) }, harness.begun);
    assert_eq!(harness.start().1.endpoint_id, harness.endpoints[1]);
    assert!(harness.tracker.start(|_| Some(())).is_none());
}

#[test]
fn a_row_answers_for_its_own_record_alone() {
    let started = |rows: &[Option<i64>]| {
        let mut harness = Harness::new(10);
        let id = EventId::generate();
        let mut scheduled = Scheduled::default();
        rows.iter().for_each(|offset| scheduled.add(DeliveryId::of(harness.endpoints[0], id), *offset));
        harness.tracker.assign(&claim(2, 0), Before { scheduled, record_time_ms: None });
        let mut started = Vec::new();
        for offset in [50, 100, 150] {
            let event = Arc::new(Accepted { event_id: id, ..(*event(offset)).clone() });
            let matched = Matched { event, endpoints: harness.endpoints[..1].to_vec(), keyed: true };
            let read = Read { partition: 0, offset, timestamp_ms: Some(0), matched: Some(matched) };
            started.extend(harness.tracker.enter(read, harness.begun).iter().map(|one| one.event.offset));
        }
        started
    };
    assert_eq!(started(&[Some(100)]), [50, 150], "other records of the event ask the view for themselves");
    assert_eq!(started(&[Some(100), Some(50)]), [150], "each of two rows of one delivery answers for its record");
    assert!(started(&[None]).is_empty(), "a row of an older log epoch answers for every record");
}

#[test]
fn nothing_of_an_earlier_assignment_is_committed() {
    let mut harness = Harness::new(10);
    harness.enter(0, &[0], false, 0);
    harness.enter(1, &[1], false, 0);
    let (in_flight, _) = harness.start();
    harness.tracker.assign(&claim(2, 0), Before::default());
    harness.tracker.attempt_finished(in_flight, AttemptOutcome::Retry { after: Duration::ZERO });
    assert!(!harness.tracker.has_progress() && harness.tracker.start(|_| Some(())).is_none());
    harness.tracker.drop_lane(0);
    assert!(harness.enter(0, &[0], false, 0).1.is_empty() && harness.tracker.queue_depth() == 0);
}

#[test]
fn a_position_tells_since_when_something_is_open_and_remembers_what_was_before() {
    let mut harness = Harness::new(10);
    harness.tracker.assign(&claim(2, 5), Before { scheduled: Scheduled::default(), record_time_ms: Some(7) });
    let position = |harness: &Harness| harness.tracker.reached().next().unwrap();
    assert_eq!(position(&harness), (0, Reached { next_offset: 5, open_since_ms: None, last_done_ms: Some(7) }));
    harness.enter(5, &[], false, 0);
    harness.enter(6, &[0], false, 0);
    harness.commit();
    assert_eq!(position(&harness), (0, Reached { next_offset: 6, open_since_ms: Some(60), last_done_ms: Some(50) }));
}

#[test]
fn the_late_loss_of_an_earlier_claim_leaves_the_newer_one_alone() {
    let mut harness = Harness::new(10);
    harness.tracker.assign(&claim(2, 0), Before::default());
    assert!(!harness.tracker.lose(0, 1) && !harness.tracker.lose(1, 2));
    harness.enter(0, &[], false, 0);
    assert_eq!(harness.commit().2, Some(1));
    assert!(harness.tracker.lose(0, 2) && !harness.tracker.lose(0, 2));
    assert_eq!(harness.tracker.log_epoch(0), None);
}

#[test]
fn letting_go_schedules_everything_and_attempts_still_count() {
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
fn a_row_is_fenced_even_where_the_position_cannot_move() {
    let mut harness = Harness::new(1);
    harness.enter(0, &[0], false, 0);
    harness.enter(1, &[0], false, 0);
    let plan = harness.tracker.plan(usize::MAX);
    assert_eq!(plan.moves, [advance(0, None)]);
    assert_eq!(plan.rows.len(), 1);
}

#[test]
fn rows_that_do_not_fit_into_a_transaction_hold_the_position_and_their_outcomes_back() {
    let mut harness = Harness::new(10);
    for offset in 0..3 {
        harness.enter(offset, &[0], false, 0);
    }
    let in_flight: Vec<(u64, Delivery)> = (0..3).map(|_| harness.start()).collect();
    harness.age(0);
    harness.max_bytes = harness.tracker.row_bytes_waiting() - 1;
    harness.tracker.attempt_finished(in_flight[0].0, AttemptOutcome::Delivered);
    harness.tracker.attempt_finished(in_flight[2].0, AttemptOutcome::Delivered);
    let settled = |settlements: &[Settlement]| settlements.iter().map(|one| one.delivery_id).collect::<Vec<_>>();
    let plan = harness.tracker.plan(harness.max_bytes);
    assert_eq!(plan.moves, [advance(2, Some(20))]);
    assert_eq!((plan.rows.len(), settled(&plan.settlements)), (2, vec![in_flight[0].1.id]));
    harness.tracker.committed(&plan.moves);
    assert!(harness.tracker.has_progress());
    let (rows, settlements, moved) = harness.commit();
    assert_eq!((rows.len(), settled(&settlements), moved), (1, vec![in_flight[2].1.id], Some(3)));
    assert!(!harness.tracker.has_progress() && harness.tracker.row_bytes_waiting() == 0);

    // One row is taken however large it is.
    harness.max_bytes = 0;
    harness.enter(3, &[0, 1], false, 0);
    harness.age(0);
    assert_eq!((harness.commit().0.len(), harness.commit().2), (1, Some(4)));
}

#[test]
fn beyond_the_window_new_records_are_spilled_at_once() {
    let mut harness = Harness::new(100_000);
    let records = i64::try_from(crate::log::ledger::MAX_RECORDS).unwrap();
    for offset in 0..records {
        harness.enter(offset, &[0], false, 0);
    }
    assert_eq!(harness.tracker.rows_waiting(), 0);
    harness.enter(records, &[0], false, 0);
    assert_eq!(harness.tracker.rows_waiting(), 1);
}

mod random;
