//! The loop that reads the log: tracks records, starts first attempts, and commits. One task; the decisions are
//! `tracker`'s.

mod commits;
mod gauges;
mod grant;
mod health;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::Record;
use kafka::consumer::{ConsumerEvent, Session, SessionEnd};
use kafka::fence::{self, Claim};
use schemas::native::SystemKey;
use schemas::unix_time::to_millis;
use time::OffsetDateTime;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};

use crate::attempt::attempter::{self, Attempt};
use crate::config::{CONSUMER, DispatcherConfig};
use crate::delivery::{AttemptOutcome, Delivery};
use crate::dependencies::Dependencies;
use crate::endpoints::input::MAX_TIMEOUT_SECONDS;
use crate::endpoints::matching::Snapshot;
use crate::error::DispatchError;
use crate::log::duplicates::Decision;
use crate::log::read_ahead::ReadAhead;
use crate::log::record::MatchKind;
use crate::log::tracker::{DeliveryTracker, PartitionHistory, ReadRecord, Undecided};
use crate::log::{duplicates, record};
use crate::metrics::METRICS;
use crate::retry::schedule;
use crate::system_events;

use commits::Committer;
use gauges::Gauges;
use grant::{Granted, Granter, reached};
use health::{HealthCheck, read_with_retries, report_database_error, unhealthy_reason};

/// While so many spilled rows wait for a transaction, no records are read.
const MAX_ROWS_WAITING: usize = 5000;
/// While spilled rows of so many bytes wait for a transaction, no records are read.
const MAX_ROW_BYTES_WAITING: usize = 64 * 1024 * 1024;
/// After so long the retry worker looks for a delivery whose endpoint gets nothing now, and not at each commit. Not
/// later, since a probe may close the circuit at any time.
const MAX_SPILLED_WAIT: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);

pub(crate) struct LogWorker {
    config: DispatcherConfig,
    dependencies: Dependencies,
    tracker: DeliveryTracker,
    read_ahead: ReadAhead,
    /// The requests in flight, with the outcome of each of their deliveries.
    attempts: JoinSet<Vec<AttemptOutcome>>,
    /// Tickets of the deliveries of each.
    tickets: HashMap<Id, Vec<u64>>,
    /// When the first batch that waits for events is sent.
    next_batch: Option<Instant>,
    decisions: JoinSet<Vec<Decision>>,
    committer: Committer,
    gauges: Gauges,
    health_check: HealthCheck,
    /// Read before the first record.
    system_key: Option<SystemKey>,
}

impl LogWorker {
    pub(crate) fn new(config: DispatcherConfig, dependencies: Dependencies) -> Self {
        let lease = attempter::lease(Duration::from_secs(u64::from(MAX_TIMEOUT_SECONDS)));
        Self {
            tracker: DeliveryTracker::new(config.queue_capacity, lease),
            // A full batch of an endpoint is among them.
            read_ahead: ReadAhead::new(config.queue_capacity / 2, Instant::now()),
            committer: Committer::new(&dependencies),
            config,
            dependencies,
            attempts: JoinSet::new(),
            tickets: HashMap::new(),
            next_batch: None,
            decisions: JoinSet::new(),
            gauges: Gauges::new(),
            health_check: HealthCheck::new(),
            system_key: None,
        }
    }

    /// Runs until the session ends. Attempts of an earlier session continue and count.
    ///
    /// # Errors
    /// Errors that a retry cannot repair.
    pub(crate) async fn run(&mut self, session: &mut Session) -> Result<SessionEnd, DispatchError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.committer.fenced.clear();
        session.report_health(unhealthy_reason(&self.dependencies));
        loop {
            let (mut just_read, has_room) = (None, self.has_room());
            tokio::select! {
                Some(finished) = self.attempts.join_next_with_id() => self.attempt_finished(finished),
                Some(decisions) = self.decisions.join_next() => self.apply_decisions(decisions),
                result = self.committer.finished() => self.committer.apply(result?, &mut self.tracker),
                event = session.next(has_room) => match event {
                    Ok(event) => just_read = self.handle_event(event, session).await?,
                    Err(ended) => return Ok(ended),
                },
                () = reached(self.next_batch) => {}
                _ = tick.tick() => {}
            }
            while let Some(finished) = self.attempts.try_join_next_with_id() {
                self.attempt_finished(finished);
            }
            if let Some(limit) = Instant::now().checked_sub(self.config.spill_after) {
                self.tracker.spill_old(limit);
            }
            for partition in std::mem::take(&mut self.committer.fenced) {
                session.report_fenced(&self.dependencies.topic, partition);
            }
            self.gauges.update(&self.tracker, &self.dependencies.topic, session);
            self.health_check.run_if_due(&self.dependencies, session).await;
            self.start_attempts(just_read, session).await;
            self.committer.start_if_due(&mut self.tracker, self.config.commit_interval);
        }
    }

    /// Spills all open deliveries, commits while the partitions are still claimed, and drops the partitions. Attempts
    /// in flight continue under leases.
    ///
    /// # Errors
    /// Errors that a retry cannot repair. If the database does not answer, uncommitted deliveries are repeated.
    pub(crate) async fn release_partitions(&mut self) -> Result<(), DispatchError> {
        self.tracker.spill_all(None);
        self.committer.commit_all(&mut self.tracker).await?;
        self.tracker.drop_all();
        Ok(())
    }

    /// Waits for the attempts in flight, at most `config.drain`, and writes their outcomes.
    ///
    /// # Errors
    /// As [`Self::release_partitions`].
    pub(crate) async fn drain(&mut self) -> Result<(), DispatchError> {
        let until = tokio::time::Instant::now() + self.config.drain;
        while let Ok(Some(finished)) = tokio::time::timeout_at(until, self.attempts.join_next_with_id()).await {
            self.attempt_finished(finished);
        }
        if !self.attempts.is_empty() {
            let (attempts, waited_ms) = (self.attempts.len(), self.config.drain.as_millis() as u64);
            warn!(
                attempts,
                waited_ms, "Shutdown did not wait for all attempts; they are repeated when their leases end."
            );
        }
        self.committer.commit_all(&mut self.tracker).await
    }

    /// Attempts at the same time, including those that have freed their slot and wait for their report.
    fn max_attempts(&self) -> usize {
        2 * self.config.max_in_flight
    }

    fn has_room(&mut self) -> bool {
        let Self { tracker, read_ahead, .. } = self;
        tracker.rows_waiting() < MAX_ROWS_WAITING
            && tracker.row_bytes_waiting() < MAX_ROW_BYTES_WAITING
            && !read_ahead.waits(tracker.queues(), Instant::now())
    }

    /// Returns the endpoints if it had to read them.
    async fn handle_event(
        &mut self,
        event: ConsumerEvent,
        session: &Session,
    ) -> Result<Option<Arc<Snapshot>>, DispatchError> {
        match event {
            ConsumerEvent::Assigned(claims) => self.assign(claims, session).await,
            ConsumerEvent::Revoked(partitions) => self.revoke(&partitions).await?,
            ConsumerEvent::Stopped { partition, .. } => self.revoke(&[partition]).await?,
            ConsumerEvent::Records(records) => return Ok(self.track(&records, session).await),
            ConsumerEvent::Failed(_) => {}
        }
        Ok(None)
    }

    async fn assign(&mut self, claims: Vec<Claim>, session: &Session) {
        let (pool, endpoint_cache) = (self.dependencies.pool.clone(), self.dependencies.endpoint_cache.clone());
        if self.system_key.is_none() {
            self.system_key = read_with_retries(&self.dependencies, session, || system_events::read_key(&pool)).await;
        }
        for claim in &claims {
            let read_history = || async {
                let scheduled =
                    schedule::scheduled_from(&pool, claim.partition, claim.log_epoch, claim.next_offset).await?;
                let record_time_ms = fence::record_time_ms(&pool, CONSUMER, &claim.topic, claim.partition).await?;
                Ok(PartitionHistory { scheduled, record_time_ms })
            };
            let Some(history) = read_with_retries(&self.dependencies, session, read_history).await else { return };
            self.tracker.assign(claim, history);
        }
        // After a database restore every instance claims its partitions again.
        endpoint_cache.invalidate();
        // Read now and not with the first record, so that a wrong sealing key is reported at once.
        let _endpoints = read_with_retries(&self.dependencies, session, || endpoint_cache.current()).await;
    }

    /// Spills the open deliveries of revoked partitions and commits, unless another instance has claimed them already.
    async fn revoke(&mut self, partitions: &[i32]) -> Result<(), DispatchError> {
        for partition in partitions {
            self.tracker.spill_all(Some(*partition));
        }
        self.committer.commit_all(&mut self.tracker).await?;
        self.committer.fenced.retain(|fenced| !partitions.contains(fenced));
        for partition in partitions {
            self.tracker.drop_lane(*partition);
            gauges::remove_lag(*partition);
        }
        Ok(())
    }

    /// Matches records against the endpoints, which are read after the records, and tracks the deliveries. `None`: the
    /// shutdown came first.
    async fn track(&mut self, records: &[Record], session: &Session) -> Option<Arc<Snapshot>> {
        let endpoint_cache = self.dependencies.endpoint_cache.clone();
        let snapshot = read_with_retries(&self.dependencies, session, || endpoint_cache.current()).await?;
        let (now, now_ms) = (Instant::now(), to_millis(OffsetDateTime::now_utc()));
        let mut kinds: BTreeMap<MatchKind, u64> = BTreeMap::new();
        let read = |record: &Record| {
            let log_epoch = self.tracker.log_epoch(record.partition)?;
            let (read, kind) = record::read(record, log_epoch, &snapshot, self.system_key.as_ref(), now_ms);
            *kinds.entry(kind).or_default() += 1;
            Some(read)
        };
        let read: Vec<ReadRecord> = records.iter().filter_map(read).collect();
        for (kind, count) in kinds {
            METRICS.records.with_label_values(&[kind.as_str()]).inc_by(count);
        }
        self.read_lanes(&read, session).await?;
        let mut undecided: BTreeMap<i32, Vec<Undecided>> = BTreeMap::new();
        for record in read {
            undecided.entry(record.partition).or_default().extend(self.tracker.track(record, now));
        }
        for (partition, undecided) in undecided {
            self.read_decisions(partition, undecided);
        }
        Some(snapshot)
    }

    /// Reads which lanes of these records have no row in the schedule. `None`: the shutdown came first.
    async fn read_lanes(&mut self, records: &[ReadRecord], session: &Session) -> Option<()> {
        let lanes = self.tracker.unknown_lanes(records);
        let pool = self.dependencies.pool.clone();
        let free = match lanes.as_slice() {
            [] => HashSet::new(),
            lanes => read_with_retries(&self.dependencies, session, || schedule::free_lanes(&pool, lanes)).await?,
        };
        self.tracker.set_free_lanes(free);
        Some(())
    }

    fn read_decisions(&mut self, partition: i32, undecided: Vec<Undecided>) {
        let Some(last) = undecided.iter().map(|one| one.event.offset).max() else { return };
        let Dependencies { pool, view_positions, topic, .. } = self.dependencies.clone();
        let deadline = self.config.spill_after;
        self.decisions.spawn(async move {
            duplicates::read_decisions(&pool, &view_positions, &topic, (partition, last), &undecided, deadline).await
        });
    }

    fn attempt_finished(&mut self, finished: Result<(Id, Vec<AttemptOutcome>), JoinError>) {
        let (id, outcomes) = finished.unwrap_or_else(|error| {
            error!(%error, "Webhook attempt panicked; repeating it.");
            (error.id(), Vec::new())
        });
        let outcomes = outcomes.into_iter().chain(std::iter::repeat(AttemptOutcome::Unreported));
        for (ticket, outcome) in self.tickets.remove(&id).unwrap_or_default().into_iter().zip(outcomes) {
            self.tracker.attempt_finished(ticket, outcome);
        }
    }

    fn apply_decisions(&mut self, decisions: Result<Vec<Decision>, JoinError>) {
        match decisions {
            Ok(decisions) => {
                decisions.into_iter().for_each(|(ticket, deliver)| self.tracker.apply_decision(ticket, deliver))
            }
            Err(error) => error!(%error, "Reading duplicate decisions panicked; spilling the deliveries later."),
        }
    }

    /// Starts the attempts that have a slot, while attempts can be reported. Reads the endpoints again, unless they
    /// were just read: nothing is sent to an endpoint after the client got the response that it is deleted.
    async fn start_attempts(&mut self, just_read: Option<Arc<Snapshot>>, session: &Session) {
        self.next_batch = None;
        if self.tracker.queue_depth() == 0
            || self.attempts.len() >= self.max_attempts()
            || !self.dependencies.reporter.is_available()
        {
            return;
        }
        let snapshot = match just_read {
            Some(snapshot) => snapshot,
            None => match self.dependencies.endpoint_cache.current().await {
                Ok(snapshot) => snapshot,
                // The next tick tries again; deliveries that wait too long are spilled.
                Err(error) => return report_database_error(session, &error),
            },
        };
        session.report_health(unhealthy_reason(&self.dependencies));
        let (slots, batch_bytes) = (self.dependencies.slots.clone(), self.dependencies.batch_bytes.clone());
        let mut granter = Granter {
            snapshot: &snapshot,
            slots: &slots,
            batch_bytes: &batch_bytes,
            queue_capacity: self.config.queue_capacity,
            spill_after: self.config.spill_after,
            now: Instant::now(),
            next_batch: None,
        };
        while self.attempts.len() < self.max_attempts()
            && let Some((started, granted)) = self.tracker.start(|id, waiting| granter.grant(id, waiting))
        {
            match granted {
                Ok(granted) => self.start_attempt(started, granted),
                Err(wait) => started.into_iter().for_each(|(ticket, _)| self.tracker.skip_unavailable(ticket, wait)),
            }
        }
        self.next_batch = granter.next_batch;
    }

    fn start_attempt(&mut self, started: Vec<(u64, Delivery)>, granted: Granted) {
        self.read_ahead.note_started(granted.endpoint.id, started.len(), Instant::now());
        let attempter = self.dependencies.attempter.clone();
        let (tickets, attempts): (Vec<u64>, Vec<Attempt>) =
            started.into_iter().map(|(ticket, delivery)| (ticket, Attempt { delivery, number: 1 })).unzip();
        // Boxed, because starting a task moves its future several times, and this one is large.
        let attempt = self.attempts.spawn(Box::pin(async move {
            let Granted { endpoint, slot, permit } = granted;
            let outcomes = attempter.attempt(&endpoint, &attempts, slot).await;
            let now = OffsetDateTime::now_utc();
            for attempt in &attempts {
                let age = now - attempt.delivery.event.accepted_at;
                METRICS.first_attempt_seconds.observe(age.as_seconds_f64().max(0.0));
            }
            drop(permit);
            outcomes
        }));
        self.tickets.insert(attempt.id(), tickets);
    }
}
