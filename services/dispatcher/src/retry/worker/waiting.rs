//! Endpoints with due rows that got no slot. Pure.

use std::collections::{HashMap, HashSet};

use schemas::ids::{EndpointId, OrgId};

/// Beyond so many, endpoints wait until their queues are due again.
const MAX_WAITING: usize = 10_000;

/// Their queues are postponed. They are looked at before that when an attempt of their organization ends.
#[derive(Debug, Default)]
pub(super) struct WaitingEndpoints {
    by_org: HashMap<OrgId, HashSet<EndpointId>>,
    count: usize,
    woken: Vec<EndpointId>,
}

impl WaitingEndpoints {
    pub(super) fn add(&mut self, org_id: OrgId, endpoint: EndpointId) {
        if self.count < MAX_WAITING && self.by_org.entry(org_id).or_default().insert(endpoint) {
            self.count += 1;
        }
    }

    /// An attempt of the organization ended.
    pub(super) fn wake(&mut self, org_id: OrgId) {
        let woken = self.by_org.remove(&org_id).unwrap_or_default();
        self.count -= woken.len();
        self.woken.extend(woken);
    }

    pub(super) fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    pub(super) fn take_woken(&mut self) -> Vec<EndpointId> {
        std::mem::take(&mut self.woken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_the_organization_are_woken_once() {
        let (org, other) = (OrgId::generate(), OrgId::generate());
        let (one, two) = (EndpointId::generate(), EndpointId::generate());
        let mut waiting = WaitingEndpoints::default();
        waiting.add(org, one);
        waiting.add(org, one);
        waiting.add(other, two);
        assert!(!waiting.has_woken());
        waiting.wake(org);
        waiting.wake(org);
        assert_eq!((waiting.take_woken(), waiting.count), (vec![one], 1));
        assert!(!waiting.has_woken());
    }

    #[test]
    fn what_waits_is_bounded() {
        let org = OrgId::generate();
        let mut waiting = WaitingEndpoints::default();
        (0..=MAX_WAITING).for_each(|_| waiting.add(org, EndpointId::generate()));
        waiting.wake(org);
        assert_eq!((waiting.take_woken().len(), waiting.count), (MAX_WAITING, 0));
    }
}
