//! Watches a consumer, on its own thread and with its own client, for five faults: a partition stalled, a log ends
//! before the offset up to which it was read, a topic was created again, a claim was lost, or nobody claims an added
//! partition. Each ends this consumer; the next one starts at the stored positions. The watch also asks whether the
//! leaders of leaderless partitions answer again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::IntCounterVec;
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use sqlx::postgres::PgPool;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{debug, error, info};
use uuid::Uuid;

use super::assignments::{Assignment, Assignments, Progress};
use super::leaderless::Leaderless;
use super::lost_claims::{LostClaims, StoredClaim};
use super::stall::{Sample, Stall, StallDetector};
use super::unclaimed::{Unclaimed, partitions_with_leaders};
use super::undecodable::Undecodable;
use super::{ConsumerEvent, ConsumerSettings, EventSender, KafkaConfig, Shared, base_config, on_thread, topic_ids};
use crate::partition::TopicPartition;
use crate::{bounds, fence, undecodable};
use runtime::telemetry::metrics;

/// Short, so that a broker that does not answer does not delay the checks of the other brokers' partitions.
const KAFKA_TIMEOUT: Duration = Duration::from_millis(1500);
const LEADERLESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the topic ids are queried: one request for all topics.
const TOPIC_IDS_INTERVAL: Duration = Duration::from_secs(1);
const CLAIMS_TIMEOUT: Duration = Duration::from_secs(3);
const CLAIMS_INTERVAL: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

struct Watch {
    client: BaseConsumer,
    config: ClientConfig,
    pool: PgPool,
    runtime: Handle,
    settings: ConsumerSettings,
    sender: EventSender,
    assignments: Assignments,
    leaderless: Leaderless,
    undecodable: Undecodable,
    client_progress: [Progress; 2],
    stalls: StallDetector,
    last_next_offsets: BTreeMap<TopicPartition, i64>,
    lost_claims: LostClaims,
    unclaimed: Unclaimed,
}

/// Starts the thread; the receiver resolves when it has ended.
pub(super) fn start(
    kafka: &KafkaConfig,
    pool: PgPool,
    settings: &ConsumerSettings,
    shared: Shared,
    client_progress: [Progress; 2],
) -> Result<oneshot::Receiver<()>, KafkaError> {
    // It must see the same log ends as the readers, so it has their configuration. It is assigned no partition.
    let mut config = base_config(kafka, settings, &format!("{}-watch", settings.consumer));
    config.set("statistics.interval.ms", "0");
    kafka.overlay(&mut config);
    let mut watch = Watch {
        client: config.create()?,
        pool,
        runtime: Handle::current(),
        settings: settings.clone(),
        sender: shared.sender.clone(),
        assignments: shared.assignments,
        leaderless: shared.leaderless,
        undecodable: shared.undecodable,
        config,
        client_progress,
        stalls: StallDetector::new(settings.stall_after),
        last_next_offsets: BTreeMap::new(),
        lost_claims: LostClaims::default(),
        unclaimed: Unclaimed::default(),
    };
    on_thread(format!("{}-watch", settings.consumer), shared.sender, move || watch.run())
}

impl Watch {
    fn run(&mut self) {
        let stall_interval = (self.settings.stall_after / 6).clamp(TICK, Duration::from_secs(5));
        let (mut next_stalls, mut next_claims) = (Instant::now() + stall_interval, Instant::now() + CLAIMS_INTERVAL);
        let mut next_leaderless = Instant::now() + LEADERLESS_INTERVAL;
        let mut next_topic_ids = Instant::now() + TOPIC_IDS_INTERVAL;
        while !self.sender.is_stopping() {
            std::thread::sleep(TICK);
            let mut reason = None;
            if Instant::now() >= next_stalls {
                reason = self.check_stalls();
                next_stalls = Instant::now() + stall_interval;
            }
            if reason.is_none() && Instant::now() >= next_claims {
                reason = self.check_claims();
                next_claims = Instant::now() + CLAIMS_INTERVAL;
            }
            if reason.is_none() && Instant::now() >= next_topic_ids {
                reason = self.check_topic_ids();
                next_topic_ids = Instant::now() + TOPIC_IDS_INTERVAL;
            }
            if Instant::now() >= next_leaderless {
                self.check_leaderless();
                next_leaderless = Instant::now() + LEADERLESS_INTERVAL;
            }
            if let Some(reason) = reason {
                let _sent = self.sender.send(ConsumerEvent::Failed(reason));
                return;
            }
        }
    }

    /// Queries the log ends of those partitions only whose next offset did not change since the last check.
    fn check_stalls(&mut self) -> Option<String> {
        let mut samples = self.samples();
        let next_offsets = samples.iter().map(|(partition, sample)| (partition.clone(), sample.next_offset)).collect();
        let before = std::mem::replace(&mut self.last_next_offsets, next_offsets);
        let unmoved: BTreeSet<TopicPartition> = samples
            .iter()
            .filter(|(partition, sample)| before.get(partition) == Some(&sample.next_offset))
            .map(|(partition, _)| partition.clone())
            .collect();
        let topics: BTreeSet<&Arc<str>> = unmoved.iter().map(|(topic, _)| topic).collect();
        for topic in topics {
            let partitions = unmoved.iter().filter(|(of, _)| of == topic).map(|(_, partition)| *partition);
            for (partition, end) in bounds::ends(&self.client, topic, partitions, KAFKA_TIMEOUT) {
                match end {
                    Ok(end) => {
                        samples.entry((topic.clone(), partition)).and_modify(|sample| sample.end = Some(end));
                    }
                    // A broker that does not answer has no records for readers either.
                    Err(error) => debug!(%error, %topic, partition, "End of the log is unknown; checking again."),
                }
            }
        }
        let stall = self.stalls.check(Instant::now(), &samples)?;
        if self.is_undecodable(&stall) {
            // It would be reported at each check until it is stopped, and would hide a stall of another partition.
            self.stalls.forget(&stall.partition);
            return None;
        }
        stalls_counter().with_label_values(&[&self.settings.consumer]).inc();
        let ((topic, partition), seconds) = (&stall.partition, stall.waited.as_secs());
        error!(
            consumer = self.settings.consumer,
            %topic, partition, next_offset = stall.next_offset, log_end = stall.end, seconds,
            "Kafka consumer stalled: lag without records, or a log that ends before the position; restarting consumer."
        );
        Some(stall.to_string())
    }

    /// The partitions that are read, their log ends not known yet.
    fn samples(&self) -> BTreeMap<TopicPartition, Sample> {
        let assignments = self.assignments.all();
        let mut samples = BTreeMap::new();
        for progress in self.client_progress.each_ref().map(Progress::snapshot) {
            for (partition, next_offset) in progress.next_offsets {
                if assignments.get(&partition).is_some_and(|assignment| !assignment.is_stopped) {
                    samples.insert(partition, Sample { next_offset, end: None, polled: progress.polled });
                }
            }
        }
        samples
    }

    /// Whether the next batch cannot be decoded. A new consumer would meet the same batch, so its partition is stopped.
    fn is_undecodable(&self, stall: &Stall) -> bool {
        let (topic, partition) = &stall.partition;
        match undecodable::probe(&self.config, topic, *partition, stall.next_offset) {
            Ok(Some(text)) => {
                self.undecodable.add(stall.partition.clone(), stall.next_offset, text);
                true
            }
            Ok(None) => false,
            Err(error) => {
                debug!(%error, %topic, partition, "Probing the next batch failed; treating the stall as a fault.");
                false
            }
        }
    }

    /// Whether a topic was deleted and created again while it is read. Stores the ids of topics that were claimed
    /// without their id.
    fn check_topic_ids(&self) -> Option<String> {
        let claims = self.assignments.all();
        let read = claims.iter().filter(|(_, assignment)| !assignment.is_stopped).map(|((topic, _), _)| topic.as_ref());
        let ids = topic_ids::query(&self.client, &read.collect::<BTreeSet<&str>>().into_iter().collect::<Vec<_>>());
        for (topic, id) in topic_ids::new_ids(&claims, &ids) {
            self.store_topic_id(&topic, id);
        }
        let topic = topic_ids::recreated(&claims, &ids)?;
        error!(consumer = self.settings.consumer, %topic, "Topic was deleted and created again; restarting consumer.");
        Some(format!("{topic} was deleted and created again"))
    }

    fn store_topic_id(&self, topic: &Arc<str>, id: Uuid) {
        // tokio's timeout needs the runtime's timer.
        let _within = self.runtime.enter();
        let stored = fence::store_topic_id(&self.pool, &self.settings.consumer, topic, id);
        // If PostgreSQL does not answer, it is stored at the next check.
        if let Ok(Ok(())) = self.runtime.block_on(tokio::time::timeout(CLAIMS_TIMEOUT, stored)) {
            self.assignments.set_topic_id(topic, id);
        }
    }

    /// Whether the leaders of leaderless partitions answer again.
    fn check_leaderless(&self) {
        for (topic, partitions) in self.leaderless.all() {
            let ends = bounds::ends(&self.client, &topic, partitions.into_iter(), KAFKA_TIMEOUT);
            for (partition, _) in ends.into_iter().filter(|(_, end)| end.is_ok()) {
                self.leaderless.mark_answering(&(topic.clone(), partition));
            }
        }
    }

    /// Compares the stored claims with the assignments of this instance, and with the partitions of the topic.
    fn check_claims(&mut self) -> Option<String> {
        // tokio's timeout needs the runtime's timer.
        let _within = self.runtime.enter();
        let stored = self.runtime.block_on(tokio::time::timeout(
            CLAIMS_TIMEOUT,
            fence::current_positions(&self.pool, &self.settings.consumer),
        ));
        let stored: BTreeMap<TopicPartition, StoredClaim> = match stored {
            Ok(Ok(stored)) => stored
                .into_iter()
                .map(|(topic, partition, epoch, next_offset)| {
                    ((Arc::from(topic), partition), StoredClaim { epoch, next_offset })
                })
                .collect(),
            // Without an answer of PostgreSQL, the next check reads them.
            _ => return None,
        };
        // The assignments are read after the database: a claim made meanwhile is newer than the stored one, never
        // older.
        let assignments = self.assignments.all();
        self.check_lost(&assignments, &stored).or_else(|| self.check_unclaimed(&assignments, &stored))
    }

    /// Whether an epoch of this consumer was raised although the group still assigns the partition, or a position went
    /// back under its epoch. Causes: an operator's repair or skip, a database restored from a backup, or another
    /// instance in an error.
    fn check_lost(
        &mut self,
        assignments: &BTreeMap<TopicPartition, Assignment>,
        stored: &BTreeMap<TopicPartition, StoredClaim>,
    ) -> Option<String> {
        let (topic, partition) = self.lost_claims.check(Instant::now(), assignments, stored)?;
        info!(consumer = self.settings.consumer, %topic, partition, "Claim lost; restarting consumer.");
        Some(format!(
            "{topic}[{partition}] was claimed, repaired, skipped or restored, and Kafka still assigns it to this \
             instance"
        ))
    }

    /// Whether no instance claims a partition of the group topic. An instance without a partition leaves it to others.
    fn check_unclaimed(
        &mut self,
        assignments: &BTreeMap<TopicPartition, Assignment>,
        stored: &BTreeMap<TopicPartition, StoredClaim>,
    ) -> Option<String> {
        let topic = &self.settings.topic;
        if !assignments.keys().any(|(of, _)| **of == **topic) {
            return None;
        }
        let partitions = partitions_with_leaders(&self.client, topic, KAFKA_TIMEOUT)?;
        let leaderless = self.leaderless.all().into_iter().filter(|(of, _)| **of == **topic).flat_map(|(_, ids)| ids);
        let claimed = stored.keys().filter(|(of, _)| **of == **topic).map(|(_, partition)| *partition);
        let claimed: BTreeSet<i32> = claimed.chain(leaderless).collect();
        let partition = self.unclaimed.check(Instant::now(), &partitions, &claimed)?;
        info!(consumer = self.settings.consumer, topic, partition, "Partition is unclaimed; restarting consumer.");
        Some(format!("no instance claims {topic}[{partition}]"))
    }
}

fn stalls_counter() -> IntCounterVec {
    metrics::counter_vec(
        "triggers_consumer_stalls_total",
        "Restarts of a Kafka consumer that stalled (lag without records), or whose log ended before its position.",
        &["consumer"],
    )
}
