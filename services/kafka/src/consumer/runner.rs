//! Runs a fenced consumer for its owner: starts it, restarts it when it fails, and tracks partitions that are stopped
//! or that another instance has claimed.
//!
//! The owner processes the records. It takes one event after the other from a [`Session`], and reports positions whose
//! commits were fenced.

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

use super::{CommitProgress, ConsumerEvent, ConsumerSettings, FencedConsumer, KafkaConfig, Lag};
use crate::fence;
use crate::partition::TopicPartition;
use runtime::health::Component;

const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long Kafka may take to revoke a partition that another instance has claimed: longer than a heartbeat, with which
/// a member learns of it.
const LOST_PATIENCE: Duration = Duration::from_secs(3);

/// Starts consumers, one after the other.
pub struct Runner {
    /// The cluster.
    pub kafka: KafkaConfig,
    /// Where the positions are.
    pub pool: PgPool,
    /// Settings of each consumer.
    pub settings: ConsumerSettings,
    /// Healthy while the consumer reads all partitions that it owns.
    pub component: Component,
    /// Stops the running session.
    pub shutdown: CancellationToken,
    /// How long leaving the group may take.
    pub stop_within: Duration,
}

/// Why a session ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// The shutdown was requested.
    Shutdown,
    /// The consumer must be restarted.
    Restart(String),
}

impl Runner {
    /// Starts a consumer when PostgreSQL answers. `None`: the shutdown came first.
    ///
    /// # Errors
    /// When a configured property does not exist or contradicts another, or no thread can be started.
    pub async fn start(&self) -> Result<Option<Session>, KafkaError> {
        if !fence::wait_until_reachable(&self.pool, &self.shutdown, |reason| self.component.report_unhealthy(reason))
            .await
        {
            return Ok(None);
        }
        let (consumer, events) = FencedConsumer::start(&self.kafka, self.pool.clone(), self.settings.clone())?;
        Ok(Some(Session {
            consumer,
            events,
            partitions: Partitions::default(),
            component: self.component.clone(),
            shutdown: self.shutdown.clone(),
            stop_within: self.stop_within,
        }))
    }

    /// Stops a session that failed for `reason`, and waits a second before the next one.
    pub async fn restart(&self, session: Session, reason: String) {
        warn!(consumer = self.settings.consumer, reason, "Kafka consumer failed; restarting it.");
        self.component.report_unhealthy(reason);
        // One that does not stop in time is left behind: the next session has threads of its own.
        session.stop().await;
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = tokio::time::sleep(RESTART_PAUSE) => {}
        }
    }
}

/// The time from the start of a consumer to its end or restart.
pub struct Session {
    consumer: FencedConsumer,
    events: mpsc::Receiver<ConsumerEvent>,
    partitions: Partitions,
    component: Component,
    shutdown: CancellationToken,
    stop_within: Duration,
}

impl Session {
    /// The next event. With `has_room` false it returns no event, only the end of the session. Cancel safe.
    ///
    /// # Errors
    /// Why the session ended.
    pub async fn next(&mut self, has_room: bool) -> Result<ConsumerEvent, SessionEnd> {
        let event = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return Err(SessionEnd::Shutdown),
            reason = lost_for_too_long(self.partitions.first_lost()) => return Err(SessionEnd::Restart(reason)),
            event = self.events.recv(), if has_room => event,
        };
        let event = event.unwrap_or_else(|| ConsumerEvent::Failed("the consumer ended".to_owned()));
        self.partitions.note(&event);
        match event {
            ConsumerEvent::Failed(reason) => Err(SessionEnd::Restart(reason)),
            ConsumerEvent::Stopped { topic, partition, reason } => {
                error!(%topic, partition, reason, "Partition is not read; reporting the consumer unhealthy.");
                self.report_health(None);
                Ok(ConsumerEvent::Stopped { topic, partition, reason })
            }
            event => Ok(event),
        }
    }

    /// A commit of this partition was fenced: another instance claimed it, although Kafka assigns it to this one. If
    /// Kafka does not revoke it soon, no instance reads it; then the session ends, and the next one claims again what
    /// Kafka assigns to it.
    pub fn report_fenced(&mut self, topic: &Arc<str>, partition: i32) {
        warn!(%topic, partition, "Partition fenced by another instance; releasing it.");
        self.partitions.lost.insert((topic.clone(), partition), Instant::now());
    }

    /// The first stopped partition and the reason, if any.
    pub fn stopped_reason(&self) -> Option<String> {
        let ((topic, partition), reason) = self.partitions.stopped.first_key_value()?;
        Some(format!("{topic}[{partition}] is stopped: {reason}"))
    }

    /// Reports the component healthy, unless a partition is stopped or the owner gives a `reason`.
    pub fn report_health(&self, reason: Option<String>) {
        match self.stopped_reason().or(reason) {
            None => self.component.report_healthy(),
            Some(reason) => self.component.report_unhealthy(reason),
        }
    }

    /// The component of the consumer, for the owner's own reports.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// Cancelled when the owner must stop.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// The lag of a partition.
    pub fn lag(&self, topic: &str, partition: i32, reached: CommitProgress, now_ms: i64) -> Lag {
        Lag::of(self.consumer.log_ends().of(topic, partition), reached, now_ms)
    }

    /// As [`FencedConsumer::commit_hint`].
    pub fn commit_hint(&self, positions: impl Iterator<Item = (i32, i64)>) {
        self.consumer.commit_hint(positions);
    }

    /// Leaves the group; waits at most [`Runner::stop_within`] for all threads together. A thread that still runs then
    /// is left behind: nothing is lost, the next owner only waits for the session timeout.
    pub async fn stop(self) {
        drop(self.events);
        if self.consumer.stop(self.stop_within).await {
            return;
        }
        let waited_ms = self.stop_within.as_millis() as u64;
        warn!(
            waited_ms,
            "Kafka consumer did not leave the group in time; the session timeout releases its partitions."
        );
    }
}

/// Assigned partitions that are stopped or fenced.
#[derive(Debug, Default)]
struct Partitions {
    /// Stopped partitions (outside of the log, undecodable or leaderless), and why. Unhealthy while there is one.
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

    /// The partition that was fenced first, and when.
    fn first_lost(&self) -> Option<(&TopicPartition, Instant)> {
        self.lost.iter().min_by_key(|(_, since)| **since).map(|(one, since)| (one, *since))
    }
}

/// Waits until a fenced partition must be claimed again; returns why. Waits for ever when there is none.
async fn lost_for_too_long(first: Option<(&TopicPartition, Instant)>) -> String {
    let Some(((topic, partition), since)) = first else { return std::future::pending().await };
    tokio::time::sleep_until(since + LOST_PATIENCE).await;
    format!("{topic}[{partition}] was claimed by another instance, and Kafka still assigns it to this one")
}

/// Waits for the running task and clears it; waits for ever when there is none. Cancel safe.
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

    fn stopped_partitions(partitions: &Partitions) -> Vec<(&str, i32)> {
        partitions.stopped.keys().map(|(topic, partition)| (topic.as_ref(), *partition)).collect()
    }

    #[test]
    fn a_stopped_partition_is_read_again_when_it_is_assigned() {
        let mut partitions = Partitions::default();
        for event in [stopped("events", 0), stopped("acks", 0), stopped("acks", 1)] {
            partitions.note(&event);
        }
        partitions.note(&assigned("acks", 0));
        assert_eq!(stopped_partitions(&partitions), [("acks", 1), ("events", 0)], "only the assigned one is read");
        partitions.note(&ConsumerEvent::Revoked(vec![0]));
        assert_eq!(stopped_partitions(&partitions), [("acks", 1)], "a revocation covers all topics");
    }

    #[tokio::test]
    async fn a_fenced_partition_is_claimed_again_unless_it_is_revoked() {
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
        assert_eq!(partitions.first_lost(), None, "a revoked partition is not claimed again");
    }
}
