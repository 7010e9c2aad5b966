//! The group client: its thread, and its callbacks for assigned and revoked partitions.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use sqlx::postgres::PgPool;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::assignments::start_offsets;
use super::companion::CompanionConsumer;
use super::{
    ConsumerEvent, ConsumerSettings, KafkaConfig, ReadState, Shared, base_config, on_thread, poll_and_forward,
    topic_ids,
};
use crate::bounds;
use crate::fence::{self, Claim};
use crate::log_identity::{LogIdentity, PartitionPosition};
use crate::log_state::{self, LogMismatch};
use crate::partition::TopicPartition;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a claim waits for leader elections. Partitions that are leaderless after it are claimed later, so that the
/// others are read now.
const ELECTION_GRACE: Duration = Duration::from_secs(2);
/// How long a claim waits for PostgreSQL. After it this instance leaves the group: another one may reach the database.
const CLAIM_DEADLINE: Duration = Duration::from_secs(20);
const CLAIM_RETRY: Duration = Duration::from_millis(250);
/// How often the group client refreshes the number of partitions.
const METADATA_REFRESH: Duration = Duration::from_secs(5);

/// Callbacks of the group client. They run on its thread, inside of `poll`.
pub(super) struct GroupContext {
    pool: PgPool,
    runtime: Handle,
    settings: ConsumerSettings,
    shared: Shared,
    companion: CompanionConsumer,
}

impl ClientContext for GroupContext {
    fn stats(&self, statistics: Statistics) {
        self.shared.log_ends.update(&statistics);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, client: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let ids: Vec<i32> = partitions
            .elements()
            .iter()
            .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
            .collect();
        match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(client, &ids),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.revoke(client, &ids),
            other => error!(error = ?other, "Kafka group rebalance failed; the assignment is not changed."),
        }
    }
}

impl GroupContext {
    fn assign(&self, client: &BaseConsumer<Self>, partitions: &[i32]) {
        let Some(claims) = self.claim_all(client, partitions) else {
            // Nothing is read. The empty assignment is acknowledged, or the rebalance would never finish.
            self.fail_on_error(client.incremental_assign(&TopicPartitionList::new()));
            return;
        };
        info!(consumer = self.settings.consumer, ?partitions, "Partitions assigned and claimed.");
        for ((topic, partition), error) in claims.leaderless {
            self.shared.leaderless.add((topic.clone(), partition));
            let reason = format!(
                "leaderless: the brokers did not report the bounds of its log; it is read as soon as they do: {error}"
            );
            error!(%topic, partition, reason, "Partition is leaderless; claiming it when its leader answers.");
            let _sent = self.shared.sender.send(ConsumerEvent::Stopped { topic, partition, reason });
        }
        let own = self.start_reading(claims.claimed);
        self.assign_group_topic(client, &own);
    }

    /// Claims leaderless partitions whose leaders answer now.
    fn claim_leaderless(&self, client: &BaseConsumer<Self>) {
        // After a lost assignment another instance claims its partitions.
        if client.assignment_lost() {
            return;
        }
        let answering = self.shared.leaderless.take_answering();
        let ids = topic_ids::query(client, &answering.keys().map(AsRef::as_ref).collect::<Vec<_>>());
        for (topic, partitions) in answering {
            match self.try_claim(client, &topic, ids.get(&*topic).copied(), &partitions) {
                Ok(claims) if claims.claimed.is_empty() => {}
                Ok(claims) => {
                    for CheckedClaim { claim, .. } in &claims.claimed {
                        self.shared.leaderless.remove(&(claim.topic.clone(), claim.partition));
                        info!(topic = %claim.topic, partition = claim.partition, "Leaderless partition claimed.");
                    }
                    let own = self.start_reading(claims.claimed);
                    if !own.is_empty() {
                        self.assign_group_topic(client, &own);
                    }
                }
                Err(error) => {
                    warn!(consumer = self.settings.consumer, error, "Claiming partitions failed; retrying.")
                }
            }
        }
    }

    /// Reports claims to the owner, and has the companion client read its partitions. Returns the claims of the group
    /// topic.
    fn start_reading(&self, claimed: Vec<CheckedClaim>) -> Vec<Claim> {
        let mut claims = Vec::with_capacity(claimed.len());
        for CheckedClaim { claim, identity, mismatch } in claimed {
            self.shared.assignments.insert(&claim, identity, mismatch.is_some());
            let Some(mismatch) = mismatch else {
                claims.push(claim);
                continue;
            };
            let (topic, partition, reason) = (claim.topic, claim.partition, mismatch.to_string());
            error!(%topic, partition, reason, "Stored position is outside of its log; stopping the partition.");
            let _reported = self.shared.sender.send(ConsumerEvent::Stopped { topic, partition, reason });
        }
        let (own, companion): (Vec<Claim>, Vec<Claim>) =
            claims.iter().cloned().partition(|claim| *claim.topic == self.settings.topic);
        // The claims are in the channel before the first record that is read under them.
        let own = if self.shared.sender.send(ConsumerEvent::Assigned(claims)) { own } else { Vec::new() };
        self.companion.assign(companion);
        own
    }

    fn assign_group_topic(&self, client: &BaseConsumer<Self>, own: &[Claim]) {
        match start_offsets(own, &self.shared.assignments) {
            Ok(list) => self.fail_on_error(client.incremental_assign(&list)),
            Err(error) => self.fail(&format!("librdkafka refused the assignment: {error}")),
        }
    }

    fn revoke(&self, client: &BaseConsumer<Self>, ids: &[i32]) {
        info!(consumer = self.settings.consumer, partitions = ?ids, "Partitions revoked.");
        // Only assigned partitions: one that was stopped at its claim was never assigned, and librdkafka refuses a list
        // that names it.
        let mut gone = TopicPartitionList::new();
        if let Ok(assigned) = client.assignment() {
            for element in assigned.elements().iter().filter(|element| ids.contains(&element.partition())) {
                gone.add_partition(element.topic(), element.partition());
            }
        }
        self.fail_on_error(client.incremental_unassign(&gone));
        // Returns when the companion client sends no further record of them: the revocation comes after their last
        // record.
        self.companion.unassign(ids.to_vec());
        self.shared.log_ends.forget(ids);
        self.shared.assignments.forget(ids);
        self.shared.leaderless.forget(ids);
        self.shared.undecodable.forget(client, &[Arc::from(self.settings.topic.as_str())], ids);
        let _sent = self.shared.sender.send(ConsumerEvent::Revoked(ids.to_vec()));
    }

    /// Claims the partitions in every topic. Waits for PostgreSQL, and shortly for leaders. `None`: the consumer stops,
    /// or PostgreSQL did not answer in time.
    fn claim_all(&self, client: &BaseConsumer<Self>, partitions: &[i32]) -> Option<ClaimResult> {
        let started = Instant::now();
        loop {
            match self.try_claim_all(client, partitions) {
                Ok(claims) if claims.leaderless.is_empty() || started.elapsed() > ELECTION_GRACE => {
                    return Some(claims);
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(consumer = self.settings.consumer, error, "Claiming partitions failed; retrying.");
                    if started.elapsed() > CLAIM_DEADLINE {
                        self.fail("PostgreSQL did not answer in time to claim partitions");
                        return None;
                    }
                }
            }
            if self.shared.sender.is_stopping() {
                return None;
            }
            std::thread::sleep(CLAIM_RETRY);
        }
    }

    fn try_claim_all(&self, client: &BaseConsumer<Self>, partitions: &[i32]) -> Result<ClaimResult, String> {
        let mut all = ClaimResult::default();
        let topics = std::iter::once(&self.settings.topic).chain(&self.settings.companion_topics).map(String::as_str);
        let topics: Vec<&str> = topics.collect();
        let ids = topic_ids::query(client, &topics);
        for topic in topics {
            let claims = self.try_claim(client, &Arc::from(topic), ids.get(topic).copied(), partitions)?;
            all.claimed.extend(claims.claimed);
            all.leaderless.extend(claims.leaderless);
        }
        Ok(all)
    }

    /// Claims those partitions of one topic whose log bounds the brokers report. Then checks the claimed positions
    /// against their logs: until the claim, the previous owner may have moved one. If `topic_id` is not known now, the
    /// watch compares it later.
    fn try_claim(
        &self,
        client: &BaseConsumer<Self>,
        topic: &Arc<str>,
        topic_id: Option<Uuid>,
        partitions: &[i32],
    ) -> Result<ClaimResult, String> {
        let (mut claims, mut starts) = (ClaimResult::default(), Vec::new());
        let mut add_leaderless = |partition: i32, error: KafkaError| {
            claims.leaderless.push(((topic.clone(), partition), error.to_string()));
        };
        for (partition, answer) in bounds::query(client, topic, partitions, KAFKA_TIMEOUT) {
            match answer {
                Ok(bounds) => starts.push((partition, bounds.start)),
                Err(error) => add_leaderless(partition, error),
            }
        }
        // An error of PostgreSQL fails the claim of all partitions.
        let (pool, consumer) = (&self.pool, &self.settings.consumer);
        let claimed = self.runtime.block_on(fence::claim(pool, consumer, topic, topic_id, &starts));
        let claimed = claimed.map_err(|error| error.to_string())?;
        let identities = self.runtime.block_on(fence::log_identities(pool, consumer, topic));
        let identities = identities.map_err(|error| error.to_string())?;
        let position = |claim: &Claim| PartitionPosition {
            partition: claim.partition,
            next_offset: claim.next_offset,
            identity: identities.get(&claim.partition).copied().unwrap_or_default(),
        };
        let positions: Vec<PartitionPosition> = claimed.iter().map(position).collect();
        let mut states = log_state::query(client, &self.shared.kafka, topic, topic_id, &positions, KAFKA_TIMEOUT);
        for (claim, position) in claimed.into_iter().zip(positions) {
            match states.remove(&claim.partition) {
                Some(Ok(state)) => {
                    claims.claimed.push(CheckedClaim { claim, identity: position.identity, mismatch: state.mismatch })
                }
                Some(Err(error)) => {
                    claims.leaderless.push(((claim.topic, claim.partition), error.to_string()));
                }
                None => claims.leaderless.push(((claim.topic, claim.partition), "no answer".to_owned())),
            }
        }
        Ok(claims)
    }

    fn fail_on_error(&self, outcome: Result<(), KafkaError>) {
        if let Err(error) = outcome {
            self.fail(&format!("librdkafka refused the change of the assignment: {error}"));
        }
    }

    fn fail(&self, reason: &str) {
        error!(consumer = self.settings.consumer, reason, "Kafka consumer failed; restarting consumer.");
        let _sent = self.shared.sender.send(ConsumerEvent::Failed(reason.to_owned()));
    }
}

/// Result of claiming some partitions.
#[derive(Default)]
struct ClaimResult {
    claimed: Vec<CheckedClaim>,
    /// Partitions whose log bounds the brokers did not report, and the error.
    leaderless: Vec<(TopicPartition, String)>,
}

/// A claim, and the state of its log.
struct CheckedClaim {
    claim: Claim,
    identity: LogIdentity,
    /// Why reading cannot continue at its position, if so.
    mismatch: Option<LogMismatch>,
}

/// Creates the client and its thread; the receiver resolves when the thread has ended.
pub(super) fn start(
    kafka: &KafkaConfig,
    pool: PgPool,
    settings: &ConsumerSettings,
    shared: Shared,
    companion: CompanionConsumer,
) -> Result<(Weak<BaseConsumer<GroupContext>>, oneshot::Receiver<()>), KafkaError> {
    let mut config = base_config(kafka, settings, &settings.consumer);
    config
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Added partitions are read within seconds, as producers write to them; the default refreshes every five
        // minutes.
        .set("topic.metadata.refresh.interval.ms", METADATA_REFRESH.as_millis().to_string())
        .set("session.timeout.ms", settings.session_timeout.as_millis().to_string())
        .set("heartbeat.interval.ms", (settings.session_timeout.as_millis() / 5).max(200).to_string());
    if let Some(instance) = &kafka.instance {
        config.set("group.instance.id", format!("{}-{instance}", settings.consumer));
    }
    kafka.overlay(&mut config);
    let runtime = Handle::current();
    let context = GroupContext { pool, runtime, settings: settings.clone(), shared: shared.clone(), companion };
    let polled: Arc<BaseConsumer<GroupContext>> = Arc::new(config.create_with_context(context)?);
    polled.subscribe(&[&settings.topic])?;
    let client = Arc::downgrade(&polled);
    let topic: Arc<str> = Arc::from(settings.topic.as_str());
    let ended = on_thread(format!("{}-group", settings.consumer), shared.sender.clone(), move || {
        read(&polled, &shared, &topic);
        // Leaving the group happens here, before the end is reported, so that the next instance does not wait for the
        // session timeout. `commit_hint` may hold the client at this moment. This waits for it, because the thread that
        // drops the last reference closes the client.
        let mut polled = polled;
        while let Err(shared) = Arc::try_unwrap(polled) {
            polled = shared;
            std::thread::sleep(Duration::from_millis(1));
        }
    })?;
    Ok((client, ended))
}

fn read(client: &BaseConsumer<GroupContext>, shared: &Shared, topic: &Arc<str>) {
    let mut state = ReadState::default();
    while !shared.sender.is_stopping() && poll_and_forward(client, &mut |_| topic.clone(), shared, &mut state) {
        client.context().claim_leaderless(client);
    }
}
