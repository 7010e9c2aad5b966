//! What may be committed, spilled and started, and when.

use proptest::prelude::*;
use schemas::ids::{DeliveryId, EventId, OrgId};
use time::OffsetDateTime;

use super::*;
use crate::delivery::RowState;

const SPILL_AFTER: Duration = Duration::from_secs(1);

struct Desk {
    intake: Intake,
    begun: Instant,
    endpoints: Vec<EndpointId>,
    /// Of rows in one plan.
    max_bytes: usize,
}

impl Desk {
    fn new(queue_capacity: usize) -> Self {
        let mut desk = Self {
            intake: Intake::new(queue_capacity, Duration::from_secs(55)),
            begun: Instant::now(),
            endpoints: (0..3).map(|_| EndpointId::generate()).collect(),
            max_bytes: usize::MAX,
        };
        desk.intake.assign(&claim(1, 0), Before::default());
        desk
    }

    /// A record of partition 0 at `offset` for the endpoints named by their numbers, read at second `at`.
    fn enter(&mut self, offset: i64, endpoints: &[usize], keyed: bool, at: u64) -> (Arc<Accepted>, Vec<Undecided>) {
        let event = event(offset);
        let endpoints: Vec<EndpointId> = endpoints.iter().map(|index| self.endpoints[*index]).collect();
        let matched = (!endpoints.is_empty()).then(|| Matched { event: event.clone(), endpoints, keyed });
        let read = Read { partition: 0, offset, timestamp_ms: Some(offset * 10), matched };
        let undecided = self.intake.enter(read, self.begun + Duration::from_secs(at));
        (event, undecided)
    }

    fn start(&mut self) -> (u64, Delivery) {
        let (ticket, delivery, ()) = self.intake.start(|_| Some(())).unwrap();
        (ticket, delivery)
    }

    /// Everything read up to second `at` is old now.
    fn age(&mut self, at: u64) {
        self.intake.age(self.begun + Duration::from_secs(at));
    }

    /// Takes the plan and commits it; answers its rows and where the position then stands, if it moved.
    fn commit(&mut self) -> (Vec<NewRow>, Vec<Settlement>, Option<i64>) {
        let plan = self.intake.plan(self.max_bytes);
        self.intake.committed(&plan.moves);
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
    let mut desk = Desk::new(10);
    assert!(!desk.intake.has_progress());
    desk.enter(0, &[], false, 0);
    desk.enter(5, &[], false, 0);
    assert_eq!(desk.commit(), (vec![], vec![], Some(6)));
    assert!(!desk.intake.has_progress());
}

#[test]
fn the_position_waits_for_what_is_delivered() {
    let mut desk = Desk::new(10);
    desk.enter(0, &[0, 1], false, 0);
    desk.enter(1, &[], false, 0);
    let (first, _) = desk.start();
    let (second, _) = desk.start();
    desk.intake.landed(first, Landing::Delivered);
    assert_eq!(desk.commit().2, None);
    desk.intake.landed(second, Landing::Delivered);
    assert_eq!(desk.commit(), (vec![], vec![], Some(2)));
}

#[test]
fn a_failed_attempt_becomes_a_row_in_the_transaction_that_passes_it() {
    let mut desk = Desk::new(10);
    let (event, _) = desk.enter(0, &[0], false, 0);
    let (ticket, delivery) = desk.start();
    assert_eq!(delivery, Delivery::new(desk.endpoints[0], event));
    desk.intake.landed(ticket, Landing::Retry { after: Duration::from_secs(30) });
    let waits_for = WaitsFor::Attempt { attempts: 1, due_after: Duration::from_secs(30), lease: None };
    assert_eq!(desk.commit(), (vec![NewRow { delivery, waits_for }], vec![], Some(1)));
}

#[test]
fn an_exhausted_delivery_needs_no_row_and_an_unreported_one_is_made_again() {
    let mut desk = Desk::new(10);
    desk.enter(0, &[0], false, 0);
    desk.enter(1, &[1], false, 0);
    let ((first, _), (second, _)) = (desk.start(), desk.start());
    desk.intake.landed(first, Landing::Failed);
    desk.intake.landed(second, Landing::Unreported);
    let (rows, _, moved) = desk.commit();
    assert_eq!((rows.len(), attempts(&rows[0]), moved), (1, Some(0), Some(2)));
}

#[test]
fn what_hangs_is_spilled_under_a_lease_and_its_outcome_settles_the_row() {
    let mut desk = Desk::new(10);
    desk.enter(0, &[0], false, 0);
    desk.enter(1, &[1], false, 5);
    let (hanging, delivery) = desk.start();
    desk.age(0);
    let (rows, settlements, moved) = desk.commit();
    let lease = rows[0].lease().unwrap();
    let waits_for = WaitsFor::Attempt { attempts: 0, due_after: Duration::from_secs(55), lease: Some(lease) };
    assert_eq!(rows, [NewRow { delivery: delivery.clone(), waits_for }]);
    assert_eq!((settlements, moved), (vec![], Some(1)));
    desk.intake.landed(hanging, Landing::Delivered);
    let outcome = Outcome::Ended { state: RowState::Delivered, attempts: 1 };
    assert_eq!(desk.commit(), (vec![], vec![Settlement { delivery_id: delivery.id, lease, outcome }], None));
}

#[test]
fn what_waits_too_long_or_meets_a_full_queue_is_spilled_due_at_once() {
    let mut desk = Desk::new(1);
    desk.enter(0, &[0], false, 0);
    desk.enter(1, &[0], false, 0);
    let (rows, _, moved) = desk.commit();
    assert_eq!((rows.len(), rows[0].delivery.event.offset, rows[0].waits_for, moved), (1, 1, DUE_NOW, None));
    desk.age(0);
    let (rows, _, moved) = desk.commit();
    assert_eq!((rows.len(), rows[0].delivery.event.offset, moved), (1, 0, Some(2)));
    assert!(desk.intake.start(|_| Some(())).is_none());
}

#[test]
fn a_keyed_event_waits_for_its_verdict_and_a_duplicate_is_dropped() {
    let mut desk = Desk::new(10);
    let (_, original) = desk.enter(0, &[0], true, 0);
    let (_, duplicate) = desk.enter(1, &[0], true, 0);
    let (_, open) = desk.enter(2, &[0], true, 0);
    assert!(desk.intake.start(|_| Some(())).is_none());
    desk.intake.decide(original[0].ticket, true);
    desk.intake.decide(duplicate[0].ticket, false);
    let (ticket, delivery) = desk.start();
    assert_eq!(delivery.event.offset, 0);
    desk.intake.landed(ticket, Landing::Delivered);
    desk.age(0);
    let (rows, _, moved) = desk.commit();
    assert_eq!((rows.len(), rows[0].waits_for, rows[0].delivery.event.offset, moved), (1, WaitsFor::Dedup, 2, Some(3)));
    // The verdict comes too late: the schedule has it now.
    desk.intake.decide(open[0].ticket, true);
    assert!(desk.intake.start(|_| Some(())).is_none());
}

#[test]
fn what_was_scheduled_in_an_earlier_life_is_not_begun_again() {
    let mut desk = Desk::new(10);
    let (event, _) = desk.enter(0, &[0, 1], false, 0);
    let mut scheduled = Scheduled::default();
    scheduled.add(DeliveryId::of(desk.endpoints[0], event.event_id), Some(0));
    desk.intake.assign(&claim(2, 0), Before { scheduled, record_time_ms: None });
    let matched = Matched { event: event.clone(), endpoints: desk.endpoints[..2].to_vec(), keyed: false };
    desk.intake.enter(Read { partition: 0, offset: 0, timestamp_ms: Some(0), matched: Some(matched) }, desk.begun);
    assert_eq!(desk.start().1.endpoint_id, desk.endpoints[1]);
    assert!(desk.intake.start(|_| Some(())).is_none());
}

#[test]
fn a_row_answers_for_its_own_record_alone() {
    let started = |rows: &[Option<i64>]| {
        let mut desk = Desk::new(10);
        let id = EventId::generate();
        let mut scheduled = Scheduled::default();
        rows.iter().for_each(|offset| scheduled.add(DeliveryId::of(desk.endpoints[0], id), *offset));
        desk.intake.assign(&claim(2, 0), Before { scheduled, record_time_ms: None });
        let mut started = Vec::new();
        for offset in [50, 100, 150] {
            let event = Arc::new(Accepted { event_id: id, ..(*event(offset)).clone() });
            let matched = Matched { event, endpoints: desk.endpoints[..1].to_vec(), keyed: true };
            let read = Read { partition: 0, offset, timestamp_ms: Some(0), matched: Some(matched) };
            started.extend(desk.intake.enter(read, desk.begun).iter().map(|one| one.event.offset));
        }
        started
    };
    assert_eq!(started(&[Some(100)]), [50, 150], "other records of the event ask the view for themselves");
    assert_eq!(started(&[Some(100), Some(50)]), [150], "each of two rows of one delivery answers for its record");
    assert!(started(&[None]).is_empty(), "a row of an older log epoch answers for every record");
}

#[test]
fn nothing_of_an_earlier_assignment_is_committed() {
    let mut desk = Desk::new(10);
    desk.enter(0, &[0], false, 0);
    desk.enter(1, &[1], false, 0);
    let (flying, _) = desk.start();
    desk.intake.assign(&claim(2, 0), Before::default());
    desk.intake.landed(flying, Landing::Retry { after: Duration::ZERO });
    assert!(!desk.intake.has_progress() && desk.intake.start(|_| Some(())).is_none());
    desk.intake.drop_lane(0);
    assert!(desk.enter(0, &[0], false, 0).1.is_empty() && desk.intake.queue_depth() == 0);
}

#[test]
fn a_position_tells_since_when_something_is_open_and_remembers_what_was_before() {
    let mut desk = Desk::new(10);
    desk.intake.assign(&claim(2, 5), Before { scheduled: Scheduled::default(), record_time_ms: Some(7) });
    let position = |desk: &Desk| desk.intake.reached().next().unwrap();
    assert_eq!(position(&desk), (0, Reached { next_offset: 5, open_since_ms: None, last_done_ms: Some(7) }));
    desk.enter(5, &[], false, 0);
    desk.enter(6, &[0], false, 0);
    desk.commit();
    assert_eq!(position(&desk), (0, Reached { next_offset: 6, open_since_ms: Some(60), last_done_ms: Some(50) }));
}

#[test]
fn the_late_loss_of_an_earlier_claim_leaves_the_newer_one_alone() {
    let mut desk = Desk::new(10);
    desk.intake.assign(&claim(2, 0), Before::default());
    assert!(!desk.intake.lose(0, 1) && !desk.intake.lose(1, 2));
    desk.enter(0, &[], false, 0);
    assert_eq!(desk.commit().2, Some(1));
    assert!(desk.intake.lose(0, 2) && !desk.intake.lose(0, 2));
    assert_eq!(desk.intake.log_epoch(0), None);
}

#[test]
fn letting_go_schedules_everything_and_attempts_still_count() {
    let mut desk = Desk::new(10);
    desk.enter(0, &[0], false, 0);
    desk.enter(1, &[0], false, 0);
    desk.enter(2, &[1], true, 0);
    let (flying, _) = desk.start();
    desk.intake.spill_all(None);
    let (rows, _, moved) = desk.commit();
    let kinds: Vec<_> =
        rows.iter().map(|row| (row.delivery.event.offset, attempts(row), row.lease().is_some())).collect();
    assert_eq!(kinds, [(0, Some(0), true), (1, Some(0), false), (2, None, false)]);
    assert_eq!(moved, Some(3));
    desk.intake.drop_lane(0);
    desk.intake.landed(flying, Landing::Delivered);
    assert_eq!(desk.commit().1.len(), 1);
}

#[test]
fn a_row_is_fenced_even_where_the_position_cannot_move() {
    let mut desk = Desk::new(1);
    desk.enter(0, &[0], false, 0);
    desk.enter(1, &[0], false, 0);
    let plan = desk.intake.plan(usize::MAX);
    assert_eq!(plan.moves, [advance(0, None)]);
    assert_eq!(plan.rows.len(), 1);
}

#[test]
fn rows_that_do_not_fit_into_a_transaction_hold_the_position_and_their_outcomes_back() {
    let mut desk = Desk::new(10);
    for offset in 0..3 {
        desk.enter(offset, &[0], false, 0);
    }
    let flights: Vec<(u64, Delivery)> = (0..3).map(|_| desk.start()).collect();
    desk.age(0);
    desk.max_bytes = desk.intake.row_bytes_waiting() - 1;
    desk.intake.landed(flights[0].0, Landing::Delivered);
    desk.intake.landed(flights[2].0, Landing::Delivered);
    let settled = |settlements: &[Settlement]| settlements.iter().map(|one| one.delivery_id).collect::<Vec<_>>();
    let plan = desk.intake.plan(desk.max_bytes);
    // No record that is passed is younger.
    assert_eq!(plan.moves, [advance(2, Some(20))]);
    assert_eq!((plan.rows.len(), settled(&plan.settlements)), (2, vec![flights[0].1.id]));
    desk.intake.committed(&plan.moves);
    assert!(desk.intake.has_progress());
    let (rows, settlements, moved) = desk.commit();
    assert_eq!((rows.len(), settled(&settlements), moved), (1, vec![flights[2].1.id], Some(3)));
    assert!(!desk.intake.has_progress() && desk.intake.row_bytes_waiting() == 0);

    // One row is taken however large it is.
    desk.max_bytes = 0;
    desk.enter(3, &[0, 1], false, 0);
    desk.age(0);
    assert_eq!((desk.commit().0.len(), desk.commit().2), (1, Some(4)));
}

#[test]
fn beyond_the_window_new_records_are_spilled_at_once() {
    let mut desk = Desk::new(100_000);
    let records = i64::try_from(crate::ledger::MAX_RECORDS).unwrap();
    for offset in 0..records {
        desk.enter(offset, &[0], false, 0);
    }
    assert_eq!(desk.intake.rows_waiting(), 0);
    desk.enter(records, &[0], false, 0);
    assert_eq!(desk.intake.rows_waiting(), 1);
}

/// What a random history may do.
#[derive(Debug, Clone)]
enum Step {
    Enter { endpoints: Vec<usize>, keyed: bool },
    Start,
    Land { index: usize, landing: usize },
    Decide { index: usize, deliver: bool },
    Age,
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (prop::sample::subsequence(vec![0, 1, 2], 0..=3), any::<bool>()).prop_map(|(endpoints, keyed)| Step::Enter { endpoints, keyed }),
        3 => Just(Step::Start),
        3 => (0_usize..8, 0_usize..4).prop_map(|(index, landing)| Step::Land { index, landing }),
        2 => (0_usize..8, any::<bool>()).prop_map(|(index, deliver)| Step::Decide { index, deliver }),
        1 => Just(Step::Age),
        2 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// The one property that everything rests on: a position passes a record only when each of its deliveries is done
    /// or has its row in the same or an earlier transaction; and no delivery is done and scheduled, or scheduled twice.
    #[test]
    fn a_position_never_passes_a_delivery_that_is_neither_done_nor_scheduled(steps in steps()) {
        let mut desk = Desk::new(2);
        // Two rows a transaction.
        desk.max_bytes = 600;
        let landings = [Landing::Delivered, Landing::Failed, Landing::Retry { after: Duration::ZERO }, Landing::Unreported];
        let (mut offset, mut second) = (0, 0);
        let mut entered: Vec<(i64, DeliveryId)> = Vec::new();
        let mut undecided: Vec<(u64, DeliveryId)> = Vec::new();
        let mut flying: Vec<(u64, DeliveryId)> = Vec::new();
        let mut done: HashSet<DeliveryId> = HashSet::new();
        let mut scheduled: HashSet<DeliveryId> = HashSet::new();
        for step in steps.into_iter().chain([Step::Age]).chain(std::iter::repeat_n(Step::Commit, 400)) {
            match step {
                Step::Enter { endpoints, keyed } => {
                    let (event, open) = desk.enter(offset, &endpoints, keyed, second);
                    let ids: Vec<DeliveryId> = endpoints.iter().map(|index| DeliveryId::of(desk.endpoints[*index], event.event_id)).collect();
                    entered.extend(ids.iter().map(|id| (offset, *id)));
                    undecided.extend(open.iter().map(|one| one.ticket).zip(ids));
                    offset += 1;
                }
                Step::Start => {
                    if let Some((ticket, delivery, ())) = desk.intake.start(|_| Some(())) {
                        prop_assert!(!scheduled.contains(&delivery.id) && !done.contains(&delivery.id));
                        flying.push((ticket, delivery.id));
                    }
                }
                Step::Land { index, landing } => {
                    if !flying.is_empty() {
                        let (ticket, id) = flying.remove(index % flying.len());
                        let leased = matches!(desk.intake.open.get(&ticket).map(|open| open.phase), Some(Phase::Leased(_)));
                        desk.intake.landed(ticket, landings[landing]);
                        if !leased && landing < 2 {
                            done.insert(id);
                        }
                    }
                }
                Step::Decide { index, deliver } => {
                    if !undecided.is_empty() {
                        let (ticket, id) = undecided.remove(index % undecided.len());
                        let open = desk.intake.open.contains_key(&ticket);
                        desk.intake.decide(ticket, deliver);
                        if open && !deliver {
                            done.insert(id);
                        }
                    }
                }
                Step::Age => {
                    desk.age(second);
                    second += SPILL_AFTER.as_secs();
                }
                Step::Commit => {
                    let (rows, settlements, moved) = desk.commit();
                    prop_assert!(rows.len() <= 2);
                    for row in rows {
                        prop_assert!(scheduled.insert(row.delivery.id) && !done.contains(&row.delivery.id));
                    }
                    prop_assert!(settlements.iter().all(|one| scheduled.contains(&one.delivery_id)));
                    if let Some(next) = moved {
                        for (_, id) in entered.iter().filter(|(offset, _)| *offset < next) {
                            prop_assert!(done.contains(id) || scheduled.contains(id));
                        }
                    }
                }
            }
        }
        // Everything was old at the end, so everything is done or scheduled and the position has passed it.
        prop_assert_eq!(desk.intake.reached().next().map(|(_, reached)| reached.next_offset), Some(offset));
        prop_assert_eq!(desk.intake.uncommitted(), 0);
    }
}
