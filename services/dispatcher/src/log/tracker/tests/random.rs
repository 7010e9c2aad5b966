//! Random histories of a tracker.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Track {
        endpoints: Vec<usize>,
        may_be_duplicate: bool,
    },
    /// In one request.
    Start {
        events: usize,
    },
    Finish {
        index: usize,
        outcome: usize,
    },
    Decide {
        index: usize,
        deliver: bool,
    },
    SpillOld,
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (prop::sample::subsequence(vec![0, 1, 2], 0..=3), any::<bool>())
            .prop_map(|(endpoints, may_be_duplicate)| Step::Track { endpoints, may_be_duplicate }),
        3 => (1_usize..4).prop_map(|events| Step::Start { events }),
        3 => (0_usize..8, 0_usize..4).prop_map(|(index, outcome)| Step::Finish { index, outcome }),
        2 => (0_usize..8, any::<bool>()).prop_map(|(index, deliver)| Step::Decide { index, deliver }),
        1 => Just(Step::SpillOld),
        2 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// A position advances past a record only if each of its deliveries is finished or has a row in the same or an
    /// earlier transaction. No delivery is both finished and scheduled, or scheduled twice.
    #[test]
    fn no_position_advances_past_an_unfinished_delivery(steps in steps()) {
        let mut harness = Harness::new(2);
        // Two rows a transaction.
        harness.max_bytes = 600;
        let outcomes = [
            AttemptOutcome::Delivered,
            AttemptOutcome::Failed,
            AttemptOutcome::Retry { after: Duration::ZERO, batch_limit: None },
            AttemptOutcome::Unreported,
        ];
        let (mut offset, mut second) = (0, 0);
        let mut entered: Vec<(i64, DeliveryId)> = Vec::new();
        let mut undecided: Vec<(u64, DeliveryId)> = Vec::new();
        let mut in_flight: Vec<(u64, DeliveryId)> = Vec::new();
        let mut done: HashSet<DeliveryId> = HashSet::new();
        let mut scheduled: HashSet<DeliveryId> = HashSet::new();
        for step in steps.into_iter().chain([Step::SpillOld]).chain(std::iter::repeat_n(Step::Commit, 400)) {
            match step {
                Step::Track { endpoints, may_be_duplicate } => {
                    let (event, open) = harness.enter(offset, &endpoints, may_be_duplicate, second);
                    let id = |index: &usize| DeliveryId::of(harness.endpoints[*index], event.event_id);
                    let ids: Vec<DeliveryId> = endpoints.iter().map(id).collect();
                    entered.extend(ids.iter().map(|id| (offset, *id)));
                    undecided.extend(open.iter().map(|one| one.ticket).zip(ids));
                    offset += 1;
                }
                Step::Start { events } => {
                    let room = Room { events, bytes: usize::MAX };
                    let started = harness.tracker.start(|_, _| Some(((), room))).map(|(started, ())| started);
                    prop_assert!(started.as_ref().is_none_or(|started| (1..=events).contains(&started.len())));
                    for (ticket, delivery) in started.unwrap_or_default() {
                        prop_assert!(!scheduled.contains(&delivery.id) && !done.contains(&delivery.id));
                        in_flight.push((ticket, delivery.id));
                    }
                }
                Step::Finish { index, outcome } => {
                    if !in_flight.is_empty() {
                        let (ticket, id) = in_flight.remove(index % in_flight.len());
                        let phase = harness.tracker.open.get(&ticket).map(|open| open.phase);
                        let leased = matches!(phase, Some(Phase::Leased(_)));
                        harness.tracker.attempt_finished(ticket, outcomes[outcome]);
                        if !leased && outcome < 2 {
                            done.insert(id);
                        }
                    }
                }
                Step::Decide { index, deliver } => {
                    if !undecided.is_empty() {
                        let (ticket, id) = undecided.remove(index % undecided.len());
                        let open = harness.tracker.open.contains_key(&ticket);
                        harness.tracker.apply_decision(ticket, deliver);
                        if open && !deliver {
                            done.insert(id);
                        }
                    }
                }
                Step::SpillOld => {
                    harness.spill_old(second);
                    second += SPILL_AFTER.as_secs();
                }
                Step::Commit => {
                    let (rows, outcomes, moved) = harness.commit();
                    prop_assert!(rows.len() <= 2);
                    for row in rows {
                        prop_assert!(scheduled.insert(row.delivery.id) && !done.contains(&row.delivery.id));
                    }
                    prop_assert!(outcomes.iter().all(|one| scheduled.contains(&one.delivery_id)));
                    if let Some(next) = moved {
                        for (_, id) in entered.iter().filter(|(offset, _)| *offset < next) {
                            prop_assert!(done.contains(id) || scheduled.contains(id));
                        }
                    }
                }
            }
        }
        // In the end everything is finished or scheduled, and the position has reached the end.
        prop_assert_eq!(harness.tracker.reached().next().map(|(_, reached)| reached.next_offset), Some(offset));
        prop_assert_eq!(harness.tracker.uncommitted(), 0);
    }
}
