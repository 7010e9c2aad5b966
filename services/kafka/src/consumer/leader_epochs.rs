//! Leader epochs of the records that are read. Each new one is stored before its records are sent to the owner, so that
//! the log can be validated from there on ([`crate::fence::store_leader_epochs`]). Leaders change rarely, so this
//! writes rarely.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use tokio::runtime::Handle;
use tracing::warn;

use super::EventSender;
use super::assignments::Assignments;
use crate::fence;

/// How long storing waits for PostgreSQL. After it the consumer fails: without PostgreSQL no record is applied either.
const STORE_DEADLINE: Duration = Duration::from_secs(20);
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
const STORE_RETRY: Duration = Duration::from_millis(250);

/// Leader epochs per partition of one chunk. Records come in runs of one partition, so the last entry is usually the
/// right one.
#[derive(Debug, Default)]
pub(super) struct ReadEpochs(Vec<ReadEpoch>);

#[derive(Debug, Clone)]
struct ReadEpoch {
    topic: Arc<str>,
    partition: i32,
    /// Of the first record that has a leader epoch.
    first: Option<i32>,
    highest: Option<i32>,
    /// Of the last record.
    last: Option<i32>,
    /// A record has a lower leader epoch than a record before it.
    went_down: bool,
}

impl ReadEpochs {
    /// Notes the leader epoch of a record; `None`: unknown.
    pub(super) fn note(&mut self, topic: &Arc<str>, partition: i32, epoch: Option<i32>) {
        let existing = self.0.iter_mut().rev().find(|one| one.partition == partition && one.topic == *topic);
        let Some(one) = existing else {
            let (topic, first, highest, last) = (topic.clone(), epoch, epoch, epoch);
            self.0.push(ReadEpoch { topic, partition, first, highest, last, went_down: false });
            return;
        };
        (one.first, one.last) = (one.first.or(epoch), epoch);
        one.went_down |= epoch.is_some() && epoch < one.highest;
        one.highest = one.highest.max(epoch);
    }

    /// The partitions.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (&Arc<str>, i32)> {
        self.0.iter().map(|one| (&one.topic, one.partition))
    }
}

/// Stores leader epochs in PostgreSQL.
#[derive(Clone)]
pub(super) struct LeaderEpochs {
    pool: PgPool,
    runtime: Handle,
    consumer: String,
    assignments: Assignments,
}

impl LeaderEpochs {
    pub(super) fn new(pool: PgPool, consumer: &str, assignments: Assignments) -> Self {
        Self { pool, runtime: Handle::current(), consumer: consumer.to_owned(), assignments }
    }

    /// Stores the new leader epochs of `read`. Waits for PostgreSQL.
    ///
    /// # Errors
    /// Why the records must not be sent to the owner: they are of another log, or PostgreSQL did not answer in time.
    pub(super) fn store(&self, read: &ReadEpochs, sender: &EventSender) -> Result<(), String> {
        let mut new = Vec::new();
        for ReadEpoch { topic, partition, first, highest, last, went_down } in &read.0 {
            let Some(assignment) = self.assignments.get(topic, *partition) else { continue };
            // Within one log, leader epochs never decrease.
            if *went_down || first.is_some_and(|first| assignment.read_epoch > Some(first)) {
                return Err(format!(
                    "{topic}[{partition}] has a record of a lower leader epoch than one before it: \
                     this is another log of the same name"
                ));
            }
            // The stored one may be higher: the reader is ahead of the position. A batch that cannot be decoded has an
            // unknown leader epoch, possibly a new one; the next record has one again.
            let stored = if last.is_none() { None } else { assignment.identity.leader_epoch.max(*highest) };
            if assignment.identity.leader_epoch != stored {
                new.push((assignment.epoch, topic.clone(), *partition, stored));
            }
            self.assignments.note_read_epoch(topic, *partition, *highest);
        }
        if new.is_empty() {
            return Ok(());
        }
        self.write(&new, sender)?;
        for (epoch, topic, partition, leader_epoch) in &new {
            self.assignments.set_leader_epoch(topic, *partition, *epoch, *leader_epoch);
        }
        Ok(())
    }

    fn write(&self, new: &[(i64, Arc<str>, i32, Option<i32>)], sender: &EventSender) -> Result<(), String> {
        let started = Instant::now();
        // tokio's timeout needs the runtime's timer.
        let _within = self.runtime.enter();
        loop {
            let stored = fence::store_leader_epochs(&self.pool, &self.consumer, new);
            let error = match self.runtime.block_on(tokio::time::timeout(STORE_TIMEOUT, stored)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(elapsed) => elapsed.to_string(),
            };
            if started.elapsed() > STORE_DEADLINE || sender.is_stopping() {
                return Err(format!("leader epochs could not be stored in PostgreSQL: {error}"));
            }
            warn!(consumer = self.consumer, error, "Storing leader epochs failed; retrying.");
            std::thread::sleep(STORE_RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_epochs_keep_the_range_of_each_partition() {
        let (mut read, topic): (_, Arc<str>) = (ReadEpochs::default(), Arc::from("events"));
        for (partition, epoch) in [(0, Some(3)), (0, Some(4)), (1, Some(7)), (1, Some(2)), (2, None)] {
            read.note(&topic, partition, epoch);
        }
        let ranges: Vec<_> = read.0.iter().map(|one| (one.partition, one.first, one.highest, one.went_down)).collect();
        let expected = [(0, Some(3), Some(4), false), (1, Some(7), Some(7), true), (2, None, None, false)];
        assert_eq!(ranges, expected, "a batch without a leader epoch changes nothing");
    }
}
