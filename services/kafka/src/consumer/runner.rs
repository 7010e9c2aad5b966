//! Runs a fenced consumer for its owner: starts it, restarts it when it fails, and keeps account of partitions that are
//! not read or were lost to another instance.
//!
//! What is done with the records is the owner's part. It asks a [`Session`] for one event after the other, beside
//! whatever else it waits for, and reports which positions it lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use sqlx::postgres::PgPool;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

use super::{ConsumerEvent, ConsumerSettings, FencedConsumer, KafkaConfig, Lag, Reached};
use crate::fence;
use runtime::health::Component;

const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long Kafka may take to revoke a partition that another instance has claimed: longer than a heartbeat, which is
/// when a member learns of it.
const LOST_PATIENCE: Duration = Duration::from_secs(3);

/// A topic's name and a partition of it.
pub type TopicPartition = (Arc<str>, i32);

/// Starts consumers, one after the other.
pub struct Runner {
    /// The cluster.
    pub kafka: KafkaConfig,
    /// Where the positions are.
    pub pool: PgPool,
    /// Of each consumer.
    pub settings: ConsumerSettings,
    /// Healthy while the consumer reads all that it owns.
    pub component: Component,
    /// Ends the running session.
    pub shutdown: CancellationToken,
    /// How long leaving the group may take.
    pub stop_within: Duration,
}

/// Why a session ended.
#[derive(Debug)]
pub enum Ended {
    /// As asked.
    Shutdown,
    /// The consumer must be restarted.
    Restart(String),
}

impl Runner {
    /// Starts a consumer as soon as PostgreSQL answers. `None`: the shutdown came first.
    ///
    /// # Errors
    /// When a configured property does not exist or contradicts another, or no thread can be had.
    pub async fn start(&self) -> Result<Option<Session>, KafkaError> {
        if !fence::wait_until_reachable(&self.pool, &self.shutdown, |reason| self.component.report_unhealthy(reason))
            .await
        {
            return Ok(None);
        }
        let (consumer, inflow) = FencedConsumer::start(&self.kafka, self.pool.clone(), self.settings.clone())?;
        Ok(Some(Session {
            consumer,
            inflow,
            partitions: Partitions::default(),
            component: self.component.clone(),
            shutdown: self.shutdown.clone(),
            stop_within: self.stop_within,
        }))
    }

    /// Ends a session that failed for `reason`, and waits a moment before the next one.
    pub async fn restart(&self, session: Session, reason: String) {
        warn!(consumer = self.settings.consumer, reason, "Kafka consumer failed; restarting it.");
        self.component.report_unhealthy(reason);
        session.stop().await;
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = tokio::time::sleep(RESTART_PAUSE) => {}
        }
    }
}

/// One life of the consumer, under the assignments that it gets.
pub struct Session {
    consumer: FencedConsumer,
    inflow: mpsc::Receiver<ConsumerEvent>,
    partitions: Partitions,
    component: Component,
    shutdown: CancellationToken,
    stop_within: Duration,
}

impl Session {
    /// The next event. Without room for more the owner gets none, and still learns when the session ends. Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    /// Why the session ended.
    pub async fn next(&mut self, has_room: bool) -> Result<ConsumerEvent, Ended> {
        let event = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return Err(Ended::Shutdown),
            reason = lost_for_too_long(self.partitions.first_lost()) => return Err(Ended::Restart(reason)),
            event = self.inflow.recv(), if has_room => event,
        };
        let event = event.unwrap_or_else(|| ConsumerEvent::Failed("the consumer ended".to_owned()));
        self.partitions.note(&event);
        match event {
            ConsumerEvent::Failed(reason) => Err(Ended::Restart(reason)),
            ConsumerEvent::Stopped { topic, partition, reason } => {
                error!(%topic, partition, reason, "A partition is not read.");
                self.report_health(None);
                Ok(ConsumerEvent::Stopped { topic, partition, reason })
            }
            event => Ok(event),
        }
    }

    /// Another instance claimed this partition, although Kafka gives it to this one. If Kafka does not revoke it soon,
    /// nobody reads it; then the session ends, and the next one claims again what Kafka gives it.
    pub fn lost(&mut self, topic: &Arc<str>, partition: i32) {
        warn!(%topic, partition, "Partition claimed by another instance; releasing it.");
        self.partitions.lost.insert((topic.clone(), partition), Instant::now());
    }

    /// Why not everything is read that this instance owns, if so.
    pub fn trouble(&self) -> Option<String> {
        let ((topic, partition), reason) = self.partitions.stopped.first_key_value()?;
        Some(format!("{topic}[{partition}] is stopped: {reason}"))
    }

    /// Reports the component healthy, unless a partition is stopped or the owner has a `trouble` of its own.
    pub fn report_health(&self, trouble: Option<String>) {
        match self.trouble().or(trouble) {
            None => self.component.report_healthy(),
            Some(reason) => self.component.report_unhealthy(reason),
        }
    }

    /// The component of the consumer, for what keeps the owner from its work.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// Cancelled when the owner must end.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// How far a partition is behind its log.
    pub fn lag(&self, topic: &str, partition: i32, reached: Reached, now_ms: i64) -> Lag {
        Lag::of(self.consumer.log_ends().of(topic, partition), reached, now_ms)
    }

    /// As [`FencedConsumer::commit_hint`].
    pub fn commit_hint(&self, positions: impl Iterator<Item = (i32, i64)>) {
        self.consumer.commit_hint(positions);
    }

    /// Leaves the group, within the runner's bound over all threads.
    pub async fn stop(self) {
        drop(self.inflow);
        if tokio::time::timeout(self.stop_within, self.consumer.stop(self.stop_within)).await.is_err() {
            warn!("The Kafka consumer did not leave the group in time.");
        }
    }
}

/// What is the matter with partitions that Kafka gives to this instance.
#[derive(Debug, Default)]
struct Partitions {
    /// Not read (outside of the log, or without a leader), and why: unhealthy while there is one.
    stopped: BTreeMap<TopicPartition, String>,
    /// Claimed by another instance, and since when.
    lost: BTreeMap<TopicPartition, Instant>,
}

impl Partitions {
    fn note(&mut self, event: &ConsumerEvent) {
        match event {
            ConsumerEvent::Assigned(claims) => {
                self.forget(|(topic, partition)| {
                    claims.iter().any(|claim| claim.topic == *topic && claim.partition == *partition)
                });
            }
            ConsumerEvent::Revoked(partitions) => self.forget(|(_, partition)| partitions.contains(partition)),
            ConsumerEvent::Stopped { topic, partition, reason } => {
                self.stopped.insert((topic.clone(), *partition), reason.clone());
            }
            ConsumerEvent::Records(_) | ConsumerEvent::Failed(_) => {}
        }
    }

    fn forget(&mut self, gone: impl Fn(&TopicPartition) -> bool) {
        self.stopped.retain(|one, _| !gone(one));
        self.lost.retain(|one, _| !gone(one));
    }

    /// The partition that was lost first, and when.
    fn first_lost(&self) -> Option<(&TopicPartition, Instant)> {
        self.lost.iter().min_by_key(|(_, since)| **since).map(|(one, since)| (one, *since))
    }
}

/// Waits until it is time to claim a lost partition again; answers why. For ever when none is lost.
async fn lost_for_too_long(first: Option<(&TopicPartition, Instant)>) -> String {
    let Some(((topic, partition), since)) = first else { return std::future::pending().await };
    tokio::time::sleep_until(since + LOST_PATIENCE).await;
    format!("{topic}[{partition}] was claimed by another instance, and Kafka still gives it to this one")
}

/// Waits for the task under way, and forgets it; for ever when there is none. Dropping the future loses nothing.
///
/// # Errors
/// When the task panicked.
pub async fn finished<T>(task: &mut Option<AbortOnDropHandle<T>>) -> Result<T, JoinError> {
    match task {
        Some(handle) => {
            let outcome = handle.await;
            *task = None;
            outcome
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::fence::Claim;

    fn stopped(topic: &str, partition: i32) -> ConsumerEvent {
        ConsumerEvent::Stopped { topic: Arc::from(topic), partition, reason: "outside of the log".to_owned() }
    }

    fn assigned(topic: &str, partition: i32) -> ConsumerEvent {
        ConsumerEvent::Assigned(vec![Claim {
            topic: Arc::from(topic),
            partition,
            epoch: 1,
            log_epoch: 1,
            next_offset: 0,
        }])
    }

    fn stopped_ones(partitions: &Partitions) -> Vec<(&str, i32)> {
        partitions.stopped.keys().map(|(topic, partition)| (topic.as_ref(), *partition)).collect()
    }

    #[test]
    fn a_stopped_partition_is_read_again_when_it_is_assigned() {
        let mut partitions = Partitions::default();
        for event in [stopped("events", 0), stopped("acks", 0), stopped("acks", 1)] {
            partitions.note(&event);
        }
        partitions.note(&assigned("acks", 0));
        assert_eq!(stopped_ones(&partitions), [("acks", 1), ("events", 0)], "only the one that was assigned");
        partitions.note(&ConsumerEvent::Revoked(vec![0]));
        assert_eq!(stopped_ones(&partitions), [("acks", 1)], "a revocation is of all topics");
    }

    #[tokio::test]
    async fn a_lost_partition_is_claimed_again_unless_it_is_revoked() {
        let mut partitions = Partitions::default();
        let long_ago = Instant::now().checked_sub(LOST_PATIENCE).unwrap();
        partitions.lost.insert((Arc::from("acks"), 3), Instant::now());
        assert!(lost_for_too_long(partitions.first_lost()).now_or_never().is_none(), "Kafka has time to revoke it");
        partitions.lost.insert((Arc::from("events"), 3), long_ago);
        let reason = lost_for_too_long(partitions.first_lost()).await;
        assert!(reason.starts_with("events[3]"), "{reason}");
        partitions.note(&assigned("events", 3));
        assert!(lost_for_too_long(partitions.first_lost()).now_or_never().is_none(), "it was claimed again");
        partitions.note(&ConsumerEvent::Revoked(vec![3]));
        assert_eq!(partitions.first_lost(), None, "what Kafka took away is not claimed again");
    }
}
