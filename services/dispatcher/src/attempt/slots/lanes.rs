//! The slots of all endpoints together. Pure.
//!
//! First attempts and retries have a pool each. A pool has two lanes: one for endpoints that answer soon, a smaller one
//! for endpoints that are slow, or whose last attempt had no answer. In each lane an organization has a share. It may
//! take more while most of the lane is idle. The rest of the lane is for organizations within their share: those that
//! take little never wait for the one that takes much.

use std::collections::HashMap;

use schemas::ids::OrgId;

/// Share of a pool that the slow lane has, percent.
const SLOW_PERCENT: usize = 20;
/// Share of a lane that an organization can always take, percent.
const ORG_PERCENT: usize = 10;
/// An organization beyond its share gets slots while less of the lane is taken, percent.
const IDLE_PERCENT: usize = 75;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Pool {
    FirstAttempts,
    Retries,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Fast,
    /// It is slow, or its last attempt had no answer.
    Slow,
}

/// Slots of each pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolSizes {
    pub first_attempts: usize,
    pub retries: usize,
}

impl PoolSizes {
    fn of_lane(self, pool: Pool, lane: Lane) -> usize {
        let pool = match pool {
            Pool::FirstAttempts => self.first_attempts,
            Pool::Retries => self.retries,
        };
        let slow = percent(pool, SLOW_PERCENT);
        match lane {
            Lane::Slow => slow,
            Lane::Fast => pool.saturating_sub(slow).max(1),
        }
    }
}

fn percent(of: usize, share: usize) -> usize {
    (of * share / 100).max(1)
}

#[derive(Debug)]
pub(super) struct Lanes {
    sizes: PoolSizes,
    taken: HashMap<(Pool, Lane), usize>,
    taken_by_org: HashMap<(Pool, Lane, OrgId), usize>,
}

impl Lanes {
    pub(super) fn new(sizes: PoolSizes) -> Self {
        Self { sizes, taken: HashMap::new(), taken_by_org: HashMap::new() }
    }

    /// `false`: there is none for this organization.
    pub(super) fn take(&mut self, pool: Pool, lane: Lane, org_id: OrgId) -> bool {
        let size = self.sizes.of_lane(pool, lane);
        let taken = self.taken.entry((pool, lane)).or_default();
        let of_org = self.taken_by_org.get(&(pool, lane, org_id)).copied().unwrap_or(0);
        let is_within_share = of_org < percent(size, ORG_PERCENT);
        if *taken >= size || !is_within_share && *taken >= percent(size, IDLE_PERCENT) {
            return false;
        }
        *taken += 1;
        self.taken_by_org.insert((pool, lane, org_id), of_org + 1);
        true
    }

    /// Moves a taken slot to the slow lane, which may have too many then.
    pub(super) fn slow_down(&mut self, pool: Pool, org_id: OrgId) {
        self.free(pool, Lane::Fast, org_id);
        *self.taken.entry((pool, Lane::Slow)).or_default() += 1;
        *self.taken_by_org.entry((pool, Lane::Slow, org_id)).or_default() += 1;
    }

    #[cfg(test)]
    pub(super) fn taken(&self, pool: Pool, lane: Lane) -> usize {
        self.taken.get(&(pool, lane)).copied().unwrap_or(0)
    }

    pub(super) fn free(&mut self, pool: Pool, lane: Lane, org_id: OrgId) {
        if let Some(taken) = self.taken.get_mut(&(pool, lane)) {
            *taken = taken.saturating_sub(1);
        }
        if let Some(of_org) = self.taken_by_org.get_mut(&(pool, lane, org_id)) {
            *of_org = of_org.saturating_sub(1);
            if *of_org == 0 {
                self.taken_by_org.remove(&(pool, lane, org_id));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZES: PoolSizes = PoolSizes { first_attempts: 1000, retries: 500 };

    /// Slots of the fast lane of first attempts that this organization gets.
    fn take_all(lanes: &mut Lanes, org_id: OrgId) -> usize {
        (0..2000).take_while(|_| lanes.take(Pool::FirstAttempts, Lane::Fast, org_id)).count()
    }

    #[test]
    fn one_organization_leaves_a_quarter_for_the_others() {
        let mut lanes = Lanes::new(SIZES);
        let greedy = OrgId::generate();
        assert_eq!(take_all(&mut lanes, greedy), 600);
        let others: Vec<usize> = (0..3).map(|_| take_all(&mut lanes, OrgId::generate())).collect();
        assert_eq!(others, [80, 80, 40], "each gets its share at once, until the lane is full");
        lanes.free(Pool::FirstAttempts, Lane::Fast, greedy);
        assert_eq!(take_all(&mut lanes, greedy), 0, "a freed slot is for those within their share");
        assert_eq!(take_all(&mut lanes, OrgId::generate()), 1);
    }

    #[test]
    fn lanes_and_pools_do_not_share_slots() {
        let mut lanes = Lanes::new(SIZES);
        let org_id = OrgId::generate();
        take_all(&mut lanes, org_id);
        assert!(lanes.take(Pool::FirstAttempts, Lane::Slow, org_id) && lanes.take(Pool::Retries, Lane::Fast, org_id));
    }

    #[test]
    fn the_smallest_pool_still_has_both_lanes() {
        let mut lanes = Lanes::new(PoolSizes { first_attempts: 1, retries: 1 });
        let org_id = OrgId::generate();
        for lane in [Lane::Fast, Lane::Slow] {
            assert!(lanes.take(Pool::Retries, lane, org_id) && !lanes.take(Pool::Retries, lane, org_id));
        }
    }

    proptest! {
        #[test]
        fn no_lane_is_overfull_and_a_share_is_free_while_the_lane_is(
            steps in prop::collection::vec((0_usize..5, any::<bool>()), 1..300),
            size in 1_usize..60,
        ) {
            let orgs: Vec<OrgId> = (0..5).map(|_| OrgId::generate()).collect();
            let sizes = PoolSizes { first_attempts: size, retries: 1 };
            let (mut lanes, lane_size) = (Lanes::new(sizes), sizes.of_lane(Pool::FirstAttempts, Lane::Fast));
            let mut held = [0_usize; 5];
            for (org, takes) in steps {
                if takes {
                    let total: usize = held.iter().sum();
                    let is_within_share = held[org] < percent(lane_size, ORG_PERCENT);
                    let got = lanes.take(Pool::FirstAttempts, Lane::Fast, orgs[org]);
                    prop_assert!(got || !is_within_share || total == lane_size);
                    held[org] += usize::from(got);
                } else if held[org] > 0 {
                    lanes.free(Pool::FirstAttempts, Lane::Fast, orgs[org]);
                    held[org] -= 1;
                }
                prop_assert!(held.iter().sum::<usize>() <= lane_size);
            }
        }
    }
}
