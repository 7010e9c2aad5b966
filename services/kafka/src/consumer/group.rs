//! The group client: its thread, and what happens when the group gives or takes partitions.

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

use super::assignments::{Assignments, Place};
use super::companion::CompanionConsumer;
use super::{
    ConsumerEvent, ConsumerSettings, KafkaConfig, ReadState, Shared, base_config, on_thread, poll_and_forward,
    topic_ids,
};
use crate::fence::{self, Claim};
use crate::log_state::{self, LogIdentity, LogMismatch, LogPosition};
use crate::{bounds, ffi};

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a claim waits for leaders that are being elected. What has none then is left to be claimed later, so that
/// the others are read.
const ELECTION_GRACE: Duration = Duration::from_secs(2);
/// How long a claim waits for PostgreSQL. Beyond it this instance leaves the group: another one may reach the database.
const CLAIM_DEADLINE: Duration = Duration::from_secs(20);
const CLAIM_RETRY: Duration = Duration::from_millis(250);
/// How often the group client asks which partitions there are.
const METADATA_REFRESH: Duration = Duration::from_secs(5);

/// Callbacks of the group client. They run on its thread, inside `poll`.
pub(super) struct GroupContext {
    pool: PgPool,
    runtime: Handle,
    settings: ConsumerSettings,
    shared: Shared,
    follower: CompanionConsumer,
}

impl ClientContext for GroupContext {
    fn stats(&self, statistics: Statistics) {
        self.shared.log_ends.learn(&statistics);
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
            other => error!(error = ?other, "The group could not be rebalanced."),
        }
    }
}

impl GroupContext {
    fn assign(&self, client: &BaseConsumer<Self>, partitions: &[i32]) {
        let Some(claims) = self.claim_all(client, partitions) else {
            // Nothing is read; the group learns it, or the rebalance would never end.
            self.incremental(client.incremental_assign(&TopicPartitionList::new()));
            return;
        };
        info!(consumer = self.settings.consumer, ?partitions, "Partitions were assigned and claimed.");
        for (place, error) in claims.leaderless {
            let (topic, partition) = place.clone();
            self.shared.leaderless.add(place);
            let reason = format!(
                "without a leader that answers, the brokers do not tell where its log begins and ends; it is read as soon as they do: {error}"
            );
            error!(%topic, partition, reason, "A partition is left unread.");
            let _told = self.shared.outlet.send(ConsumerEvent::Stopped { topic, partition, reason });
        }
        let own = self.take_up(claims.made);
        self.read_own(client, &own);
    }

    /// Claims what was left because the brokers did not answer for it, as far as they do now.
    fn claim_left(&self, client: &BaseConsumer<Self>) {
        // Places that are about to be taken away are somebody else's to claim.
        if client.assignment_lost() {
            return;
        }
        let answering = self.shared.leaderless.take_answering();
        let ids = topic_ids::known(client, &answering.keys().map(AsRef::as_ref).collect::<Vec<_>>());
        for (topic, partitions) in answering {
            match self.try_claim(client, &topic, ids.get(&*topic).copied(), &partitions) {
                Ok(claims) if claims.made.is_empty() => {}
                Ok(claims) => {
                    for Claimed { claim, .. } in &claims.made {
                        self.shared.leaderless.remove(&(claim.topic.clone(), claim.partition));
                        info!(topic = %claim.topic, partition = claim.partition, "A partition that was left unread is claimed.");
                    }
                    let own = self.take_up(claims.made);
                    if !own.is_empty() {
                        self.read_own(client, &own);
                    }
                }
                Err(error) => {
                    warn!(consumer = self.settings.consumer, error, "Claiming partitions failed; trying again.")
                }
            }
        }
    }

    /// Tells the owner of claims, and has those of followed topics read. Answers those that the group client is to
    /// read.
    fn take_up(&self, made: Vec<Claimed>) -> Vec<Claim> {
        let mut claims = Vec::with_capacity(made.len());
        for Claimed { claim, identity, mismatch } in made {
            self.shared.held.claimed(&claim, identity, mismatch.is_some());
            let Some(mismatch) = mismatch else {
                claims.push(claim);
                continue;
            };
            let (topic, partition, reason) = (claim.topic, claim.partition, mismatch.to_string());
            error!(%topic, partition, reason, "Stored position is outside of its log; stopping the partition.");
            let _reported = self.shared.outlet.send(ConsumerEvent::Stopped { topic, partition, reason });
        }
        let (own, followed): (Vec<Claim>, Vec<Claim>) =
            claims.iter().cloned().partition(|claim| *claim.topic == self.settings.topic);
        // The claims stand in the channel before the first record that is read under them.
        let own = if self.shared.outlet.send(ConsumerEvent::Assigned(claims)) { own } else { Vec::new() };
        self.follower.assign(followed);
        own
    }

    fn read_own(&self, client: &BaseConsumer<Self>, own: &[Claim]) {
        match offsets(own, &self.shared.held) {
            Ok(list) => self.incremental(client.incremental_assign(&list)),
            Err(error) => self.fail(&format!("the assignment was refused: {error}")),
        }
    }

    fn revoke(&self, client: &BaseConsumer<Self>, ids: &[i32]) {
        info!(consumer = self.settings.consumer, partitions = ?ids, "Partitions were revoked.");
        // Only what is assigned: a partition that was stopped at its claim never was, and naming it would refuse the
        // whole list.
        let mut gone = TopicPartitionList::new();
        if let Ok(assigned) = client.assignment() {
            for element in assigned.elements().iter().filter(|element| ids.contains(&element.partition())) {
                gone.add_partition(element.topic(), element.partition());
            }
        }
        self.incremental(client.incremental_unassign(&gone));
        // Returns when the following client hands over nothing more of them: the revocation stands behind their last
        // record.
        self.follower.unassign(ids.to_vec());
        self.shared.log_ends.forget(ids);
        self.shared.held.forget(ids);
        self.shared.leaderless.forget(ids);
        self.shared.undecodable.forget(client, &[Arc::from(self.settings.topic.as_str())], ids);
        let _told = self.shared.outlet.send(ConsumerEvent::Revoked(ids.to_vec()));
    }

    /// Claims the partitions in every topic. Waits for PostgreSQL, and a moment for leaders; `None` when stopping or
    /// when PostgreSQL did not come in time.
    fn claim_all(&self, client: &BaseConsumer<Self>, partitions: &[i32]) -> Option<Claims> {
        let started = Instant::now();
        loop {
            match self.try_claim_all(client, partitions) {
                Ok(claims) if claims.leaderless.is_empty() || started.elapsed() > ELECTION_GRACE => {
                    return Some(claims);
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(consumer = self.settings.consumer, error, "Claiming partitions failed; trying again.");
                    if started.elapsed() > CLAIM_DEADLINE {
                        self.fail("partitions could not be claimed in time");
                        return None;
                    }
                }
            }
            if self.shared.outlet.is_stopping() {
                return None;
            }
            std::thread::sleep(CLAIM_RETRY);
        }
    }

    fn try_claim_all(&self, client: &BaseConsumer<Self>, partitions: &[i32]) -> Result<Claims, String> {
        let mut all = Claims::default();
        let topics = std::iter::once(&self.settings.topic).chain(&self.settings.companion_topics).map(String::as_str);
        let topics: Vec<&str> = topics.collect();
        let ids = topic_ids::known(client, &topics);
        for topic in topics {
            let claims = self.try_claim(client, &Arc::from(topic), ids.get(topic).copied(), partitions)?;
            all.made.extend(claims.made);
            all.leaderless.extend(claims.leaderless);
        }
        Ok(all)
    }

    /// Claims those partitions of one topic of which the brokers tell where the log begins and ends. Then checks the
    /// positions that were claimed: the previous owner may have moved one until then. A topic id that is not
    /// known now is compared by the watch.
    fn try_claim(
        &self,
        client: &BaseConsumer<Self>,
        topic: &Arc<str>,
        topic_id: Option<Uuid>,
        partitions: &[i32],
    ) -> Result<Claims, String> {
        let (mut claims, mut begins) = (Claims::default(), Vec::new());
        let mut left = |partition: i32, error: KafkaError| {
            claims.leaderless.push(((topic.clone(), partition), error.to_string()));
        };
        for (partition, answer) in bounds::ask(client, topic, partitions, KAFKA_TIMEOUT) {
            match answer {
                Ok(bounds) => begins.push((partition, bounds.begin)),
                Err(error) => left(partition, error),
            }
        }
        // The database's errors are not the brokers': they fail the claim as a whole.
        let (pool, consumer) = (&self.pool, &self.settings.consumer);
        let made = self.runtime.block_on(fence::claim(pool, consumer, topic, topic_id, &begins));
        let made = made.map_err(|error| error.to_string())?;
        let identities = self.runtime.block_on(fence::log_identities(pool, consumer, topic));
        let identities = identities.map_err(|error| error.to_string())?;
        let place = |claim: &Claim| LogPosition {
            partition: claim.partition,
            next_offset: claim.next_offset,
            identity: identities.get(&claim.partition).copied().unwrap_or_default(),
        };
        let places: Vec<LogPosition> = made.iter().map(place).collect();
        let mut states = log_state::ask(client, &self.shared.kafka, topic, topic_id, &places, KAFKA_TIMEOUT);
        for (claim, place) in made.into_iter().zip(places) {
            match states.remove(&claim.partition) {
                Some(Ok(state)) => {
                    claims.made.push(Claimed { claim, identity: place.identity, mismatch: state.mismatch })
                }
                Some(Err(error)) => {
                    claims.leaderless.push(((claim.topic, claim.partition), error.to_string()));
                }
                None => claims.leaderless.push(((claim.topic, claim.partition), "no answer".to_owned())),
            }
        }
        Ok(claims)
    }

    fn incremental(&self, outcome: Result<(), KafkaError>) {
        if let Err(error) = outcome {
            self.fail(&format!("the group refused the change: {error}"));
        }
    }

    fn fail(&self, reason: &str) {
        error!(consumer = self.settings.consumer, reason, "The consumer fails.");
        let _told = self.shared.outlet.send(ConsumerEvent::Failed(reason.to_owned()));
    }
}

/// What claiming some places came to.
#[derive(Default)]
struct Claims {
    made: Vec<Claimed>,
    /// Places of which the brokers did not tell where the log begins and ends, and what they said instead.
    leaderless: Vec<(Place, String)>,
}

/// A claim, and what was found of its log.
struct Claimed {
    claim: Claim,
    identity: LogIdentity,
    /// Why its position cannot be read on, if so.
    mismatch: Option<LogMismatch>,
}

/// Claims as a list of offsets to begin at, with leader epochs: librdkafka validates them when the leader changes before
/// the first record is read. From then on it goes by the epochs of the records.
pub(super) fn offsets(claims: &[Claim], held: &Assignments) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(claims.len());
    for Claim { topic, partition, next_offset, .. } in claims {
        let leader_epoch = held.get(topic, *partition).and_then(|hold| hold.identity.leader_epoch);
        ffi::add_with_leader_epoch(&mut list, topic, *partition, *next_offset, leader_epoch)?;
    }
    Ok(list)
}

/// Makes the client and its thread; the receiver resolves when the thread has ended.
pub(super) fn start(
    kafka: &KafkaConfig,
    pool: PgPool,
    settings: &ConsumerSettings,
    shared: Shared,
    follower: CompanionConsumer,
) -> Result<(Weak<BaseConsumer<GroupContext>>, oneshot::Receiver<()>), KafkaError> {
    let mut config = base_config(kafka, settings, &settings.consumer);
    config
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Partitions that were added are read within seconds, as producers write to them; the default looks every five
        // minutes.
        .set("topic.metadata.refresh.interval.ms", METADATA_REFRESH.as_millis().to_string())
        .set("session.timeout.ms", settings.session_timeout.as_millis().to_string())
        .set("heartbeat.interval.ms", (settings.session_timeout.as_millis() / 5).max(200).to_string());
    if let Some(instance) = &kafka.instance {
        config.set("group.instance.id", format!("{}-{instance}", settings.consumer));
    }
    kafka.overlay(&mut config);
    let runtime = Handle::current();
    let context = GroupContext { pool, runtime, settings: settings.clone(), shared: shared.clone(), follower };
    let polled: Arc<BaseConsumer<GroupContext>> = Arc::new(config.create_with_context(context)?);
    polled.subscribe(&[&settings.topic])?;
    let client = Arc::downgrade(&polled);
    let topic: Arc<str> = Arc::from(settings.topic.as_str());
    let ended = on_thread(format!("{}-group", settings.consumer), shared.outlet.clone(), move || {
        read(&polled, &shared, &topic);
        // Leaving the group happens here, before the end is reported, so that the next instance need not wait for the
        // session to time out. A commit that has hold of the client at this moment is waited for: it must not be the
        // one that closes it.
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
    while !shared.outlet.is_stopping() && poll_and_forward(client, &mut |_| topic.clone(), shared, &mut state) {
        client.context().claim_left(client);
    }
}
