//! Detects claims that are not stored any more as they were made: an operator's repair or skip, a database restored
//! from a backup, or another instance in an error. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::assignments::Assignment;
use crate::partition::TopicPartition;

/// How long a claim may be lost: if the group has assigned the partition to another member, it revokes it by then.
const GRACE: Duration = Duration::from_secs(4);

/// A claimed position as PostgreSQL has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredClaim {
    pub epoch: i64,
    pub next_offset: i64,
}

/// Claims that are not stored any more as they were made.
#[derive(Debug, Default)]
pub(super) struct LostClaims {
    /// The epoch of each such claim, and since when it is not stored.
    suspects: BTreeMap<TopicPartition, (i64, Instant)>,
    /// The highest position that was seen under the current epoch. Under one epoch a position only grows: one that went
    /// back comes from a backup.
    highest: BTreeMap<TopicPartition, StoredClaim>,
}

impl LostClaims {
    /// A partition whose claim has been lost for [`GRACE`].
    pub(super) fn check(
        &mut self,
        now: Instant,
        assignments: &BTreeMap<TopicPartition, Assignment>,
        stored: &BTreeMap<TopicPartition, StoredClaim>,
    ) -> Option<TopicPartition> {
        self.highest.retain(|partition, seen| {
            assignments.get(partition).is_some_and(|assignment| assignment.epoch == seen.epoch)
        });
        let mut suspects = BTreeMap::new();
        for (partition, assignment) in assignments {
            if self.is_stored(partition, assignment, stored.get(partition)) {
                continue;
            }
            let suspect = self.suspects.get(partition).filter(|(epoch, _)| *epoch == assignment.epoch);
            suspects.insert(partition.clone(), (assignment.epoch, suspect.map_or(now, |(_, since)| *since)));
        }
        for (partition, claim) in stored {
            if assignments.contains_key(partition) && !suspects.contains_key(partition) {
                self.highest.insert(partition.clone(), *claim);
            }
        }
        self.suspects = suspects;
        let is_over = |since: &Instant| now.saturating_duration_since(*since) >= GRACE;
        self.suspects.iter().find(|(_, (_, since))| is_over(since)).map(|(partition, _)| partition.clone())
    }

    fn is_stored(&self, partition: &TopicPartition, assignment: &Assignment, stored: Option<&StoredClaim>) -> bool {
        let highest = self.highest.get(partition).map(|claim| claim.next_offset);
        let went_back = |claim: &StoredClaim| highest.is_some_and(|highest| claim.next_offset < highest);
        stored.is_some_and(|claim| claim.epoch == assignment.epoch && !went_back(claim))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::log_identity::LogIdentity;

    fn partition(partition: i32) -> TopicPartition {
        (Arc::from("events"), partition)
    }

    /// Each as (epoch, next offset).
    fn stored<const N: usize>(claims: [(i64, i64); N]) -> BTreeMap<TopicPartition, StoredClaim> {
        let claim = |(number, (epoch, next_offset))| (partition(number), StoredClaim { epoch, next_offset });
        (0..).zip(claims).map(claim).collect()
    }

    fn assignment(epoch: i64, is_stopped: bool) -> Assignment {
        Assignment { epoch, identity: LogIdentity::default(), read_epoch: None, is_stopped }
    }

    fn assignments(epoch: i64) -> BTreeMap<TopicPartition, Assignment> {
        BTreeMap::from([(partition(0), assignment(epoch, false)), (partition(1), assignment(1, true))])
    }

    #[test]
    fn a_lost_claim_is_reported_also_of_a_stopped_partition() {
        let (mut lost, now) = (LostClaims::default(), Instant::now());
        let unchanged = stored([(5, 0), (1, 0)]);
        assert_eq!(lost.check(now, &assignments(5), &unchanged), None);
        assert_eq!(lost.check(now + GRACE, &assignments(5), &unchanged), None, "it is stored as it was made");
        let repaired = stored([(5, 0), (2, 0)]);
        assert_eq!(lost.check(now, &assignments(5), &repaired), None);
        assert_eq!(lost.check(now + GRACE, &assignments(5), &repaired), Some(partition(1)));
    }

    #[test]
    fn a_newer_claim_of_this_instance_or_a_revocation_is_no_loss() {
        let (mut lost, now) = (LostClaims::default(), Instant::now());
        let claimed = stored([(6, 0), (1, 0)]);
        assert_eq!(lost.check(now, &assignments(5), &claimed), None);
        assert_eq!(lost.check(now + GRACE, &assignments(6), &claimed), None, "claimed again");
        assert_eq!(lost.check(now, &assignments(5), &claimed), None);
        assert_eq!(lost.check(now + GRACE, &BTreeMap::new(), &claimed), None, "revoked");
    }

    #[test]
    fn a_claim_that_is_missing_or_of_an_older_epoch_is_a_loss() {
        for stored in [BTreeMap::new(), stored([(4, 0), (1, 0)])] {
            let (mut lost, now) = (LostClaims::default(), Instant::now());
            assert_eq!(lost.check(now, &assignments(5), &stored), None);
            assert_eq!(lost.check(now + GRACE, &assignments(5), &stored), Some(partition(0)));
        }
    }

    #[test]
    fn a_position_that_went_back_is_a_lost_claim() {
        let (mut lost, now) = (LostClaims::default(), Instant::now());
        for next_offset in [500, 1_000] {
            assert_eq!(lost.check(now, &assignments(5), &stored([(5, next_offset), (1, 0)])), None);
        }
        let restored = stored([(5, 500), (1, 0)]);
        assert_eq!(lost.check(now, &assignments(5), &restored), None);
        assert_eq!(lost.check(now + GRACE / 2, &assignments(5), &restored), None, "the grace is not over");
        assert_eq!(lost.check(now + GRACE, &assignments(5), &restored), Some(partition(0)));
        let claimed = stored([(6, 500), (1, 0)]);
        assert_eq!(lost.check(now, &assignments(6), &claimed), None);
        assert_eq!(lost.check(now + GRACE, &assignments(6), &claimed), None, "claimed at the restored position");
    }
}
