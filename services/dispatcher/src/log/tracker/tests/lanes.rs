//! Random histories of an ordered endpoint: first attempts from the log, a model of the schedule, failures, spills, and
//! restarts without warning.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::lane::LaneKey;

const LANES: usize = 3;

/// A record of the log. Its offset is its index.
struct Logged {
    event: Arc<OutboundEvent>,
    lane: usize,
    may_be_duplicate: bool,
    is_duplicate: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Undecided,
    Pending,
    Done,
}

/// A row of the schedule.
#[derive(Debug)]
struct Row {
    state: State,
    /// Of an attempt that the log worker makes.
    lease: Option<Uuid>,
    /// The retry worker makes an attempt.
    in_flight: bool,
}

struct Model {
    tracker: DeliveryTracker,
    started: Instant,
    second: u64,
    endpoint: EndpointId,
    log: Vec<Logged>,
    /// The next record to read.
    next: usize,
    position: usize,
    epoch: i64,
    rows: BTreeMap<usize, Row>,
    undecided: Vec<(u64, usize)>,
    in_flight: Vec<(u64, usize)>,
    /// The running transaction, and whether it is committed.
    commit: Option<(CommitPlan, bool)>,
    finished: HashSet<usize>,
}

impl Model {
    fn new() -> Self {
        let mut model = Self {
            tracker: DeliveryTracker::new(2, Duration::from_secs(55)),
            started: Instant::now(),
            second: 0,
            endpoint: EndpointId::generate(),
            log: Vec::new(),
            next: 0,
            position: 0,
            epoch: 0,
            rows: BTreeMap::new(),
            undecided: Vec::new(),
            in_flight: Vec::new(),
            commit: None,
            finished: HashSet::new(),
        };
        model.restart();
        model
    }

    fn key(&self, lane: usize) -> LaneKey {
        LaneKey::of(self.log[0].event.org_id, Some(&lane.to_string()))
    }

    /// The process was killed: another one reads from the position on. All leases have ended.
    fn restart(&mut self) {
        self.tracker = DeliveryTracker::new(2, Duration::from_secs(55));
        self.undecided.clear();
        self.in_flight.clear();
        self.commit = None;
        let mut scheduled = ScheduledDeliveries::default();
        for (offset, row) in &mut self.rows {
            (row.lease, row.in_flight) = (None, false);
            let id = DeliveryId::of(self.endpoint, self.log[*offset].event.event_id);
            scheduled.add(id, Some(*offset as i64));
        }
        self.epoch += 1;
        self.next = self.position;
        let history = PartitionHistory { scheduled, record_time_ms: None };
        self.tracker.assign(&claim(self.epoch, self.position as i64), history);
    }

    /// Reads all that is on the log.
    fn read(&mut self) {
        let read: Vec<ReadRecord> = (self.next..self.log.len()).map(|offset| self.record(offset)).collect();
        let is_free = |lane: &EndpointLane| {
            let is_in = |offset: &usize| self.key(self.log[*offset].lane) == lane.key;
            !self.rows.iter().any(|(offset, row)| row.state != State::Done && is_in(offset))
        };
        let free = self.tracker.unknown_lanes(&read).into_iter().filter(is_free).collect();
        self.tracker.set_free_lanes(free);
        for record in read {
            let offset = record.offset as usize;
            let undecided = self.tracker.track(record, self.started + Duration::from_secs(self.second));
            self.undecided.extend(undecided.into_iter().map(|one| (one.ticket, offset)));
        }
        self.next = self.log.len();
    }

    fn record(&self, offset: usize) -> ReadRecord {
        let Logged { event, lane, may_be_duplicate, .. } = &self.log[offset];
        let delivery = Delivery { lane: Some(self.key(*lane)), ..Delivery::new(self.endpoint, event.clone()) };
        let may_be_duplicate = *may_be_duplicate;
        let matched = MatchedEvent { event: event.clone(), deliveries: vec![delivery], may_be_duplicate };
        ReadRecord { partition: 0, offset: offset as i64, timestamp_ms: Some(0), matched: Some(matched) }
    }

    fn append(&mut self, lane: usize, may_be_duplicate: bool, is_duplicate: bool) {
        let event = event(self.log.len() as i64);
        self.log.push(Logged { event, lane, may_be_duplicate, is_duplicate: is_duplicate && may_be_duplicate });
    }

    /// An attempt of this record starts: it is the only one of its lane, and all before it are finished.
    fn check(&self, offset: usize) {
        let lane = self.log[offset].lane;
        let of_lane = |other: &usize| *other != offset && self.log[*other].lane == lane;
        let from_log = self.in_flight.iter().map(|(_, other)| other);
        let retried = self.rows.iter().filter(|(_, row)| row.in_flight).map(|(other, _)| other);
        let in_flight: Vec<&usize> = from_log.chain(retried).filter(|other| of_lane(other)).collect();
        assert!(in_flight.is_empty(), "{offset} starts while {in_flight:?} of its lane are in flight");
        let open =
            |before: &usize| of_lane(before) && !self.log[*before].is_duplicate && !self.finished.contains(before);
        let overtaken: Vec<usize> = (0..offset).filter(open).collect();
        assert!(overtaken.is_empty(), "{offset} overtakes {overtaken:?}");
        assert!(!self.log[offset].is_duplicate, "a duplicate is sent");
    }

    fn start(&mut self) {
        let started = self.tracker.start(|_, _| Some(((), Room::ONE)));
        for (ticket, delivery) in started.into_iter().flat_map(|(started, ())| started) {
            let offset = delivery.event.offset as usize;
            self.check(offset);
            self.in_flight.push((ticket, offset));
        }
    }

    fn finish(&mut self, index: usize, outcome: AttemptOutcome) {
        if !self.in_flight.is_empty() {
            let (ticket, offset) = self.in_flight.remove(index % self.in_flight.len());
            if matches!(outcome, AttemptOutcome::Delivered | AttemptOutcome::Failed) {
                self.finished.insert(offset);
            }
            self.tracker.attempt_finished(ticket, outcome);
        }
    }

    fn decide(&mut self, index: usize) {
        if !self.undecided.is_empty() {
            let (ticket, offset) = self.undecided.remove(index % self.undecided.len());
            self.tracker.apply_decision(ticket, !self.log[offset].is_duplicate);
        }
    }

    /// A transaction starts, is committed, or its result is known to the tracker.
    fn step_commit(&mut self) {
        self.commit = match self.commit.take() {
            None => Some((self.tracker.plan(600), false)),
            Some((plan, false)) => {
                self.apply(&plan);
                Some((plan, true))
            }
            Some((plan, true)) => {
                self.tracker.committed(&plan.advances);
                None
            }
        };
    }

    fn apply(&mut self, plan: &CommitPlan) {
        for NewRow { delivery, waits_for } in &plan.rows {
            let (state, lease) = match waits_for {
                WaitsFor::Dedup => (State::Undecided, None),
                WaitsFor::Attempt { lease, .. } => (State::Pending, *lease),
            };
            let row = Row { state, lease, in_flight: false };
            self.rows.entry(delivery.event.offset as usize).or_insert(row);
        }
        for outcome in &plan.outcomes {
            for row in self.rows.values_mut().filter(|row| row.lease == Some(outcome.lease)) {
                row.lease = None;
                row.state = if outcome.update.due_after.is_none() { State::Done } else { State::Pending };
            }
        }
        if let Some(advance) = plan.advances.first() {
            self.position = advance.next as usize;
        }
    }

    /// The view has passed all records.
    fn release_decided(&mut self) {
        for (offset, row) in self.rows.iter_mut().filter(|(_, row)| row.state == State::Undecided) {
            row.state = if self.log[*offset].is_duplicate { State::Done } else { State::Pending };
        }
    }

    /// The retry worker claims the first row of a lane.
    fn claim(&mut self, lane: usize) {
        let first = self.rows.iter().find(|(offset, row)| row.state != State::Done && self.log[**offset].lane == lane);
        let Some((offset, row)) = first else { return };
        let (offset, is_pending) = (*offset, row.state == State::Pending);
        let is_in_flight = |(other, row): (&usize, &Row)| {
            self.log[*other].lane == lane && (row.in_flight || row.lease.is_some() && row.state == State::Pending)
        };
        if is_pending && !self.rows.iter().any(is_in_flight) {
            self.check(offset);
            self.rows.entry(offset).and_modify(|row| row.in_flight = true);
        }
    }

    fn finish_claimed(&mut self, lane: usize, is_last: bool) {
        let claimed = self.rows.iter_mut().find(|(offset, row)| row.in_flight && self.log[**offset].lane == lane);
        let Some((offset, row)) = claimed else { return };
        row.in_flight = false;
        if is_last {
            row.state = State::Done;
            self.finished.insert(*offset);
        }
    }

    /// All goes on without failures.
    fn settle(&mut self) {
        for _ in 0..10 * self.log.len() + 20 {
            self.read();
            (0..self.undecided.len()).for_each(|_| self.decide(0));
            self.start();
            self.finish(0, AttemptOutcome::Delivered);
            self.step_commit();
            self.release_decided();
            for lane in 0..LANES {
                self.claim(lane);
                self.finish_claimed(lane, true);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append { lane: usize, may_be_duplicate: bool, is_duplicate: bool },
    Read,
    Start,
    Finish { index: usize, outcome: usize },
    Decide { index: usize },
    SpillOld,
    Commit,
    ReleaseDecided,
    Claim { lane: usize },
    FinishClaimed { lane: usize, is_last: bool },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..LANES, prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(lane, may_be_duplicate, is_duplicate)| Step::Append { lane, may_be_duplicate, is_duplicate }),
        4 => Just(Step::Read),
        6 => Just(Step::Start),
        5 => (0_usize..4, 0_usize..6).prop_map(|(index, outcome)| Step::Finish { index, outcome }),
        2 => (0_usize..4).prop_map(|index| Step::Decide { index }),
        1 => Just(Step::SpillOld),
        6 => Just(Step::Commit),
        1 => Just(Step::ReleaseDecided),
        4 => (0..LANES).prop_map(|lane| Step::Claim { lane }),
        3 => (0..LANES, any::<bool>()).prop_map(|(lane, is_last)| Step::FinishClaimed { lane, is_last }),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Per lane, at most one attempt is in flight, and none starts before those before it are finished. In the end all
    /// are finished.
    #[test]
    fn a_lane_is_attempted_in_the_order_of_the_log(steps in steps()) {
        let outcomes = [
            AttemptOutcome::Delivered,
            AttemptOutcome::Delivered,
            AttemptOutcome::Delivered,
            AttemptOutcome::Failed,
            AttemptOutcome::Retry { after: Duration::ZERO, batch_limit: None },
            AttemptOutcome::Unreported,
        ];
        let mut model = Model::new();
        model.append(0, false, false);
        for step in steps {
            match step {
                Step::Append { lane, may_be_duplicate, is_duplicate } => {
                    model.append(lane, may_be_duplicate, is_duplicate);
                }
                Step::Read => model.read(),
                Step::Start => model.start(),
                Step::Finish { index, outcome } => model.finish(index, outcomes[outcome]),
                Step::Decide { index } => model.decide(index),
                Step::SpillOld => {
                    model.tracker.spill_old(model.started + Duration::from_secs(model.second));
                    model.second += SPILL_AFTER.as_secs();
                }
                Step::Commit => model.step_commit(),
                Step::ReleaseDecided => model.release_decided(),
                Step::Claim { lane } => model.claim(lane),
                Step::FinishClaimed { lane, is_last } => model.finish_claimed(lane, is_last),
                Step::Restart => model.restart(),
            }
        }
        model.settle();
        let all: HashSet<usize> = (0..model.log.len()).filter(|offset| !model.log[*offset].is_duplicate).collect();
        prop_assert_eq!(&model.finished, &all, "every lane goes on");
        prop_assert!(model.tracker.open.is_empty() && model.tracker.has_no_lanes());
    }
}

#[test]
fn a_failing_event_holds_back_only_its_lane() {
    let mut model = Model::new();
    for lane in [0, 0, 1, 1] {
        model.append(lane, false, false);
    }
    model.read();
    (0..4).for_each(|_| model.start());
    assert_eq!(model.in_flight.iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), [0, 2]);
    model.finish(0, AttemptOutcome::Retry { after: Duration::from_secs(30), batch_limit: None });
    model.finish(0, AttemptOutcome::Delivered);
    (0..4).for_each(|_| model.start());
    assert_eq!(model.in_flight.iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), [3]);
    let plan = model.tracker.plan(usize::MAX);
    let rows: Vec<_> = plan.rows.iter().map(|row| (row.delivery.event.offset, attempts(row))).collect();
    assert_eq!(rows, [(0, Some(1)), (1, Some(0))], "the lane of the failed event follows it in its order");
}
