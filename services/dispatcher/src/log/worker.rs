//! The pass over the log: takes records in, starts first attempts, and commits. One task; every decision is `intake`'s.

mod commits;
mod gauges;
mod health;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::Record;
use kafka::consumer::{ConsumerEvent, Ended, Session, finished};
use kafka::fence::{self, Claim};
use runtime::retry::Backoff;
use schemas::ids::EndpointId;
use time::OffsetDateTime;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

use crate::CONSUMER;
use crate::attempt::in_flight;
use crate::attempt::slots::Slot;
use crate::config::DispatcherConfig;
use crate::delivery::{AttemptOutcome, Delivery};
use crate::dependencies::Dependencies;
use crate::endpoints::input::MAX_TIMEOUT_SECONDS;
use crate::endpoints::matching::{Endpoint, EndpointState, Snapshot};
use crate::error::DispatchError;
use crate::log::commit::{CommitError, Committed};
use crate::log::duplicates::Decision;
use crate::log::tracker::{Before, DeliveryTracker, Undecided};
use crate::log::{duplicates, reading};
use crate::metrics::METRICS;
use crate::retry::schedule;

/// Rows that wait, from which on no record is taken in.
const MAX_ROWS_WAITING: usize = 5000;
/// Bytes of rows that wait, from which on no record is taken in.
const MAX_ROW_BYTES_WAITING: usize = 64 * 1024 * 1024;
const TICK: Duration = Duration::from_millis(50);

pub(crate) struct LogWorker {
    config: DispatcherConfig,
    dependencies: Dependencies,
    tracker: DeliveryTracker,
    flights: JoinSet<AttemptOutcome>,
    tickets: HashMap<Id, u64>,
    deciding: JoinSet<Vec<Decision>>,
    committing: Option<AbortOnDropHandle<Result<Committed, CommitError>>>,
    last_commit: Instant,
    /// Partitions that were lost, of which the session is not informed yet.
    lost: Vec<i32>,
    last_gauges: Instant,
    last_examined: Instant,
    hinted: Vec<(i32, i64)>,
}

impl LogWorker {
    /// A pass that has read nothing yet.
    pub(crate) fn new(config: DispatcherConfig, dependencies: Dependencies) -> Self {
        let lease = in_flight::lease(Duration::from_secs(u64::from(MAX_TIMEOUT_SECONDS)));
        Self {
            tracker: DeliveryTracker::new(config.queue_capacity, lease),
            config,
            dependencies,
            flights: JoinSet::new(),
            tickets: HashMap::new(),
            deciding: JoinSet::new(),
            committing: None,
            last_commit: Instant::now(),
            lost: Vec::new(),
            last_gauges: Instant::now(),
            last_examined: Instant::now(),
            hinted: Vec::new(),
        }
    }

    /// Works until the session ends. Attempts of an earlier session go on and count.
    ///
    /// # Errors
    /// Errors that a retry cannot repair.
    pub(crate) async fn run(&mut self, session: &mut Session) -> Result<Ended, DispatchError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.lost.clear();
        session.report_health(self.unhealthy_reason());
        loop {
            let (mut fresh, has_room) = (None, self.has_room());
            tokio::select! {
                Some(attempt_finished) = self.flights.join_next_with_id() => self.land(attempt_finished),
                Some(decided) = self.deciding.join_next() => self.apply_decision(decided),
                outcome = finished(&mut self.committing) => self.committed(outcome?)?,
                event = session.next(has_room) => match event {
                    Ok(event) => fresh = self.take(event, session).await?,
                    Err(ended) => return Ok(ended),
                },
                _ = tick.tick() => {}
            }
            while let Some(attempt_finished) = self.flights.try_join_next_with_id() {
                self.land(attempt_finished);
            }
            if let Some(limit) = Instant::now().checked_sub(self.config.spill_after) {
                self.tracker.age(limit);
            }
            for partition in std::mem::take(&mut self.lost) {
                session.lost(&self.dependencies.topic, partition);
            }
            self.show(session);
            self.examine(session).await;
            self.start_attempts(fresh, session).await;
            self.commit_if_due();
        }
    }

    /// Waits for the attempts that are under way, within bounds, and writes down how they ended.
    ///
    /// # Errors
    /// As [`Self::let_go`].
    pub(crate) async fn drain(&mut self) -> Result<(), DispatchError> {
        let until = tokio::time::Instant::now() + self.config.drain;
        while let Ok(Some(attempt_finished)) = tokio::time::timeout_at(until, self.flights.join_next_with_id()).await {
            self.land(attempt_finished);
        }
        if !self.flights.is_empty() {
            warn!(
                attempts = self.flights.len(),
                "Attempts were still under way at the end; they are made again when their leases end."
            );
        }
        self.commit_in_time().await
    }

    fn has_room(&self) -> bool {
        self.tracker.rows_waiting() < MAX_ROWS_WAITING && self.tracker.row_bytes_waiting() < MAX_ROW_BYTES_WAITING
    }

    /// Takes an event of the session. Answers the endpoints if it had to read them.
    async fn take(&mut self, event: ConsumerEvent, session: &Session) -> Result<Option<Arc<Snapshot>>, DispatchError> {
        match event {
            ConsumerEvent::Assigned(claims) => self.assign(claims, session).await,
            ConsumerEvent::Revoked(partitions) => self.revoke(&partitions).await?,
            ConsumerEvent::Stopped { partition, .. } => self.revoke(&[partition]).await?,
            ConsumerEvent::Records(records) => return Ok(self.enter(&records, session).await),
            ConsumerEvent::Failed(_) => {}
        }
        Ok(None)
    }

    async fn assign(&mut self, claims: Vec<Claim>, session: &Session) {
        for claim in claims {
            let (pool, claim) = (self.dependencies.pool.clone(), &claim);
            let read = || async {
                let scheduled =
                    schedule::scheduled_from(&pool, claim.partition, claim.log_epoch, claim.next_offset).await?;
                let record_time_ms = fence::record_time_ms(&pool, CONSUMER, &claim.topic, claim.partition).await?;
                Ok(Before { scheduled, record_time_ms })
            };
            let Some(before) = self.patiently(read, session).await else { return };
            self.tracker.assign(claim, before);
        }
        // Now rather than with the first record: a sealing key that opens nothing shows at once.
        let endpoint_cache = self.dependencies.endpoint_cache.clone();
        // After a database restore every instance claims its partitions again.
        endpoint_cache.invalidate();
        let _known = self.patiently(|| endpoint_cache.current(), session).await;
    }

    /// The group takes partitions away. What is open goes to the schedule, if nobody has claimed them yet; otherwise it
    /// is theirs.
    async fn revoke(&mut self, partitions: &[i32]) -> Result<(), DispatchError> {
        for partition in partitions {
            self.tracker.spill_all(Some(*partition));
        }
        self.commit_in_time().await?;
        self.lost.retain(|lost| !partitions.contains(lost));
        for partition in partitions {
            self.tracker.drop_lane(*partition);
            let label = partition.to_string();
            // A partition without a gauge yet is as well.
            let _removed = (
                METRICS.lag_records.remove_label_values(&[&label]),
                METRICS.lag_seconds.remove_label_values(&[&label]),
            );
        }
        Ok(())
    }

    /// Takes records in, matched against endpoints that are read after the records were. `None`: the end came first.
    async fn enter(&mut self, records: &[Record], session: &Session) -> Option<Arc<Snapshot>> {
        let endpoint_cache = self.dependencies.endpoint_cache.clone();
        let snapshot = self.patiently(|| endpoint_cache.current(), session).await?;
        let now = Instant::now();
        let mut undecided: BTreeMap<i32, Vec<Undecided>> = BTreeMap::new();
        for record in records {
            let Some(log_epoch) = self.tracker.log_epoch(record.partition) else { continue };
            let (read, kind) = reading::read(record, log_epoch, &snapshot);
            METRICS.records.with_label_values(&[kind.as_str()]).inc();
            undecided.entry(record.partition).or_default().extend(self.tracker.enter(read, now));
        }
        for (partition, undecided) in undecided {
            self.ask_view(partition, undecided);
        }
        Some(snapshot)
    }

    fn ask_view(&mut self, partition: i32, undecided: Vec<Undecided>) {
        let Some(last) = undecided.iter().map(|one| one.event.offset).max() else { return };
        let (pool, view, topic) =
            (self.dependencies.pool.clone(), self.dependencies.view.clone(), self.dependencies.topic.clone());
        let deadline = self.config.spill_after;
        self.deciding.spawn(async move {
            duplicates::read_decisions(&pool, &view, &topic, (partition, last), &undecided, deadline).await
        });
    }

    /// Repeats a reading of the database until it succeeds. `None`: the end came first.
    async fn patiently<T, F>(&self, mut read: impl FnMut() -> F, session: &Session) -> Option<T>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let mut backoff = Backoff::of_database();
        loop {
            match read().await {
                Ok(value) => {
                    session.report_health(self.unhealthy_reason());
                    return Some(value);
                }
                Err(error) => session.component().report_unhealthy(format!("the database: {error}")),
            }
            tokio::select! {
                () = session.shutdown().cancelled() => return None,
                () = backoff.pause() => {}
            }
        }
    }

    fn land(&mut self, attempt_finished: Result<(Id, AttemptOutcome), JoinError>) {
        let (id, landing) = match attempt_finished {
            Ok(attempt_finished) => attempt_finished,
            Err(error) => {
                error!(%error, "An attempt panicked; it is made again.");
                (error.id(), AttemptOutcome::Unreported)
            }
        };
        if let Some(ticket) = self.tickets.remove(&id) {
            self.tracker.attempt_finished(ticket, landing);
        }
    }

    fn apply_decision(&mut self, decided: Result<Vec<Decision>, JoinError>) {
        match decided {
            Ok(decisions) => {
                decisions.into_iter().for_each(|(ticket, deliver)| self.tracker.apply_decision(ticket, deliver))
            }
            // What it was to decide grows old and goes to the schedule.
            Err(error) => error!(%error, "Reading verdicts panicked."),
        }
    }

    /// Starts what has a slot, while attempts can be reported. The version of the endpoints is read again, unless it
    /// was just now: nothing is sent to an endpoint after the answer that says it was deleted.
    async fn start_attempts(&mut self, fresh: Option<Arc<Snapshot>>, session: &Session) {
        if self.tracker.queue_depth() == 0
            || self.flights.len() >= self.config.max_in_flight
            || !self.dependencies.reporter.is_available()
        {
            return;
        }
        let snapshot = match fresh {
            Some(snapshot) => snapshot,
            None => match self.dependencies.endpoint_cache.current().await {
                Ok(snapshot) => snapshot,
                // The next tick tries again; what waits too long goes to the schedule.
                Err(error) => return session.component().report_unhealthy(format!("the database: {error}")),
            },
        };
        session.report_health(self.unhealthy_reason());
        let slots = self.dependencies.slots.clone();
        // An endpoint that is gone or withheld needs no slot: its deliveries leave the queue at once.
        let slot = |id: EndpointId| match snapshot.standing(id) {
            EndpointState::Enabled(endpoint) => {
                slots.take(id, endpoint.max_in_flight).map(|slot| Some((endpoint.clone(), slot)))
            }
            EndpointState::Withheld | EndpointState::Gone => Some(None),
        };
        while self.flights.len() < self.config.max_in_flight
            && let Some((ticket, delivery, granted)) = self.tracker.start(slot)
        {
            match granted {
                Some((endpoint, slot)) => self.start(ticket, endpoint, delivery, slot),
                None => self.tracker.skip_unavailable(ticket),
            }
        }
    }

    fn start(&mut self, ticket: u64, endpoint: Arc<Endpoint>, delivery: Delivery, slot: Slot) {
        let attempter = self.dependencies.attempter.clone();
        let flight = self.flights.spawn(async move {
            let landing = attempter.attempt(&endpoint, &delivery, 1, slot).await;
            let age = OffsetDateTime::now_utc() - delivery.event.accepted_at;
            METRICS.first_attempt_seconds.observe(age.as_seconds_f64().max(0.0));
            landing
        });
        self.tickets.insert(flight.id(), ticket);
    }
}
