//! The group client: its thread, and what happens when the group gives or takes partitions.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use sqlx::postgres::PgPool;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::follow::Follower;
use super::held::Place;
use super::{ConsumerSettings, Inflow, KafkaConfig, ReadState, Shared, base_config, hand_over, on_thread};
use crate::fence::{self, Claim};
use crate::kafka::bounds::{self, Asked, LogBounds};
use crate::kafka::younger;

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
    kafka: KafkaConfig,
    pool: PgPool,
    runtime: Handle,
    settings: ConsumerSettings,
    shared: Shared,
    follower: Follower,
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
            // Nothing is read; the group is told so, or the rebalance would never end.
            self.incremental(client.incremental_assign(&TopicPartitionList::new()));
            return;
        };
        info!(consumer = self.settings.consumer, ?partitions, "Partitions were assigned and claimed.");
        for (place, error) in claims.unanswered {
            let (topic, partition) = place.clone();
            self.shared.unanswered.add(place);
            let reason = format!(
                "without a leader that answers, the brokers do not tell where its log begins and ends; it is read as soon as they do: {error}"
            );
            error!(%topic, partition, reason, "A partition is left unread.");
            let _told = self.shared.outlet.send(Inflow::Stopped { topic, partition, reason });
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
        for (topic, partitions) in self.shared.unanswered.take_answering() {
            match self.try_claim(client, &topic, &partitions) {
                Ok(claims) if claims.made.is_empty() => {}
                Ok(claims) => {
                    for (claim, _) in &claims.made {
                        self.shared.unanswered.remove(&(claim.topic.clone(), claim.partition));
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
    fn take_up(&self, mut claims: Vec<(Claim, Option<String>)>) -> Vec<Claim> {
        claims.retain(|(claim, outside)| match outside {
            None => {
                self.shared.held.claimed(claim, false);
                true
            }
            Some(reason) => {
                self.shared.held.claimed(claim, true);
                error!(topic = %claim.topic, partition = claim.partition, reason, "The stored position is outside of the log.");
                let (topic, reason) = (claim.topic.clone(), reason.clone());
                let _told = self.shared.outlet.send(Inflow::Stopped { topic, partition: claim.partition, reason });
                false
            }
        });
        let claims: Vec<Claim> = claims.into_iter().map(|(claim, _)| claim).collect();
        let (own, followed): (Vec<Claim>, Vec<Claim>) =
            claims.iter().cloned().partition(|claim| *claim.topic == self.settings.topic);
        // The claims stand in the channel before the first record that is read under them.
        let own = if self.shared.outlet.send(Inflow::Assigned(claims)) { own } else { Vec::new() };
        self.follower.assign(followed);
        own
    }

    fn read_own(&self, client: &BaseConsumer<Self>, own: &[Claim]) {
        match offsets(own) {
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
        self.shared.unanswered.forget(ids);
        self.shared.undecodable.forget(client, &[Arc::from(self.settings.topic.as_str())], ids);
        let _told = self.shared.outlet.send(Inflow::Revoked(ids.to_vec()));
    }

    /// Claims the partitions in every topic. Waits for PostgreSQL, and a moment for leaders; `None` when stopping or
    /// when PostgreSQL did not come in time.
    fn claim_all(&self, client: &BaseConsumer<Self>, partitions: &[i32]) -> Option<Claims> {
        let started = Instant::now();
        loop {
            match self.try_claim_all(client, partitions) {
                Ok(claims) if claims.unanswered.is_empty() || started.elapsed() > ELECTION_GRACE => {
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
        for topic in std::iter::once(&self.settings.topic).chain(&self.settings.followed) {
            let claims = self.try_claim(client, &Arc::from(topic.as_str()), partitions)?;
            all.made.extend(claims.made);
            all.unanswered.extend(claims.unanswered);
        }
        Ok(all)
    }

    /// Claims those partitions of one topic of which the brokers tell where the log begins and ends.
    fn try_claim(&self, client: &BaseConsumer<Self>, topic: &Arc<str>, partitions: &[i32]) -> Result<Claims, String> {
        let times = self
            .runtime
            .block_on(fence::record_times(&self.pool, &self.settings.consumer, topic))
            .map_err(|e| e.to_string())?;
        let asked: Vec<Asked> =
            partitions.iter().map(|partition| (*partition, times.get(partition).copied())).collect();
        let (mut claims, mut bounds) = (Claims::default(), BTreeMap::new());
        for (partition, answer) in bounds::ask(client, topic, &asked, KAFKA_TIMEOUT) {
            match answer {
                Ok(answer) => drop(bounds.insert(partition, answer)),
                Err(error) => claims.unanswered.push(((topic.clone(), partition), error.to_string())),
            }
        }
        let begins: Vec<(i32, i64)> = bounds.iter().map(|(partition, bounds)| (*partition, bounds.begin)).collect();
        let made = self.runtime.block_on(fence::claim(&self.pool, &self.settings.consumer, topic, &begins));
        for claim in made.map_err(|e| e.to_string())? {
            let is_inside =
                bounds.get(&claim.partition).is_none_or(|bounds| bounds::outside(claim.next_offset, bounds).is_none());
            // The database's errors are not the brokers': they fail the claim as a whole.
            let time_ms = || {
                self.runtime.block_on(fence::record_time_ms(
                    &self.pool,
                    &self.settings.consumer,
                    topic,
                    claim.partition,
                ))
            };
            let time_ms = if is_inside { None } else { time_ms().map_err(|e| e.to_string())? };
            match if is_inside { Ok(None) } else { self.look_again(client, &claim, time_ms) } {
                Ok(outside) => claims.made.push((claim, outside)),
                Err(error) => claims.unanswered.push(((claim.topic, claim.partition), error)),
            }
        }
        Ok(claims)
    }

    /// Why a claimed position is outside of its log, if it is. What the claim was compared with was asked before it was
    /// made, when whoever had the partition may still have moved the position; now nobody else does.
    fn look_again(
        &self,
        client: &BaseConsumer<Self>,
        claim: &Claim,
        time_ms: Option<i64>,
    ) -> Result<Option<String>, String> {
        let Claim { topic, partition, next_offset, .. } = claim;
        let asked: Asked = (*partition, time_ms);
        let answer = bounds::ask(client, topic, &[asked], KAFKA_TIMEOUT).remove(partition).ok_or("no answer")?;
        let bounds = answer.map_err(|e| e.to_string())?;
        let seen = self.runtime.block_on(younger::seen(&self.kafka, topic, asked, *next_offset, bounds));
        let bounds: LogBounds = seen.map_err(|e| e.to_string())?;
        Ok(bounds::outside(*next_offset, &bounds).map(|outside| outside.to_string()))
    }

    fn incremental(&self, outcome: Result<(), KafkaError>) {
        if let Err(error) = outcome {
            self.fail(&format!("the group refused the change: {error}"));
        }
    }

    fn fail(&self, reason: &str) {
        error!(consumer = self.settings.consumer, reason, "The consumer fails.");
        let _told = self.shared.outlet.send(Inflow::Failed(reason.to_owned()));
    }
}

/// What claiming some places came to.
#[derive(Default)]
struct Claims {
    /// With each claim, why its position is outside of the log, if it is.
    made: Vec<(Claim, Option<String>)>,
    /// Places of which the brokers did not tell where the log begins and ends, and what they said instead.
    unanswered: Vec<(Place, String)>,
}

/// Claims as a list of offsets to begin at.
pub(super) fn offsets(claims: &[Claim]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(claims.len());
    for claim in claims {
        list.add_partition_offset(&claim.topic, claim.partition, Offset::Offset(claim.next_offset))?;
    }
    Ok(list)
}

/// Makes the client and its thread; the receiver resolves when the thread has ended.
pub(super) fn start(
    kafka: &KafkaConfig,
    pool: PgPool,
    settings: &ConsumerSettings,
    shared: Shared,
    follower: Follower,
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
    let (kafka, runtime) = (kafka.clone(), Handle::current());
    let context = GroupContext { kafka, pool, runtime, settings: settings.clone(), shared: shared.clone(), follower };
    let polled: Arc<BaseConsumer<GroupContext>> = Arc::new(config.create_with_context(context)?);
    polled.subscribe(&[&settings.topic])?;
    let client = Arc::downgrade(&polled);
    let topic: Arc<str> = Arc::from(settings.topic.as_str());
    let ended = on_thread(format!("{}-group", settings.consumer), shared.outlet.clone(), move || {
        read(&polled, &shared, &topic);
        // Leaving the group happens here, before the end is told, so that the next instance need not wait for the
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
    while !shared.outlet.is_stopping() && hand_over(client, &mut |_| topic.clone(), shared, &mut state) {
        client.context().claim_left(client);
    }
}
