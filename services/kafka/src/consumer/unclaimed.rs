//! Detects added partitions that no instance claims.
//!
//! A group client notices added partitions when it refreshes its metadata, and joins the group again. If they are added
//! while it joins, librdkafka may take their number as known without asking the group for them; then nobody reads them
//! until an instance joins for another reason. Every claim is stored, so a partition without one shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tracing::debug;

/// How long a partition may have a leader and no claim: the refresh of the metadata, a rebalance and a claim, each with
/// time to spare.
const GRACE: Duration = Duration::from_secs(15);

/// The partitions of a topic that have leaders; `None`: the brokers do not answer.
pub(super) fn partitions_with_leaders(client: &BaseConsumer, topic: &str, timeout: Duration) -> Option<BTreeSet<i32>> {
    let metadata = client.fetch_metadata(Some(topic), timeout);
    let metadata = metadata.inspect_err(|error| debug!(%error, topic, "Partitions are unknown; querying them again."));
    let metadata = metadata.ok()?;
    let topic = metadata.topics().iter().find(|answer| answer.name() == topic)?;
    let partitions = topic.partitions().iter().filter(|partition| partition.leader() >= 0);
    Some(partitions.map(rdkafka::metadata::MetadataPartition::id).collect())
}

/// Partitions without a stored claim, and since when. Pure.
#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    since: BTreeMap<i32, Instant>,
}

impl Unclaimed {
    /// A partition that has been unclaimed for too long.
    pub(super) fn check(&mut self, now: Instant, partitions: &BTreeSet<i32>, claimed: &BTreeSet<i32>) -> Option<i32> {
        self.since.retain(|partition, _| partitions.contains(partition) && !claimed.contains(partition));
        for partition in partitions.difference(claimed) {
            self.since.entry(*partition).or_insert(now);
        }
        let is_late = |since: &Instant| now.saturating_duration_since(*since) >= GRACE;
        self.since.iter().find(|(_, since)| is_late(since)).map(|(partition, _)| *partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_reported_when_it_is_unclaimed_for_long() {
        let (mut unclaimed, start) = (Unclaimed::default(), Instant::now());
        let (all, two) = (BTreeSet::from([0, 1, 2]), BTreeSet::from([0, 1]));
        assert_eq!(unclaimed.check(start, &all, &two), None);
        assert_eq!(unclaimed.check(start + GRACE / 2, &all, &all), None);
        assert_eq!(unclaimed.check(start + GRACE, &all, &two), None, "it was claimed meanwhile");
        assert_eq!(unclaimed.check(start + GRACE + GRACE, &all, &two), Some(2));
        assert_eq!(unclaimed.check(start + GRACE + GRACE, &two, &two), None, "it has no leader now");
    }
}
