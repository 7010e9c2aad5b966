//! What this process knows of one organization, shared by all its cached keys and by their requests.

use std::sync::{Arc, Mutex, PoisonError};

use runtime::weak_map::WeakMap;
use schemas::ids::{KeyId, OrgId};

use crate::budgets::{OrganizationBudgets, OrganizationShares};
use crate::limits::{Limits, RequestLimits, Scope, ScopeKind};
use crate::tier::limit_of_key;

/// The state of an organization in this process. It lives as long as a cached key or a request refers to it.
#[derive(Debug)]
pub struct Tenant {
    org_id: OrgId,
    /// Counts the requests of the organization.
    requests: Arc<Scope>,
    /// Count those of keys with a limit of their own. Keys that share a window have one for each of their limits.
    keys: Mutex<WeakMap<(KeyId, u32), Scope>>,
    /// What it holds at once.
    shares: OrganizationShares,
}

impl Tenant {
    fn new(org_id: OrgId, limits: &Limits, shares: OrganizationShares) -> Self {
        let requests = Arc::new(limits.scope(org_id.as_uuid(), ScopeKind::Organization, 0));
        Self { org_id, requests, keys: Mutex::default(), shares }
    }

    pub const fn org_id(&self) -> OrgId {
        self.org_id
    }

    /// What the organization holds in this process at once.
    pub fn shares(&self) -> &OrganizationShares {
        &self.shares
    }

    /// The limits of a key as it was read just now. 0: unlimited. `limit_scope`: whose window its own limit is of.
    pub(crate) fn limits_of_key(
        &self,
        limits: &Limits,
        limit_scope: KeyId,
        organization_limit: u32,
        key_limit: Option<u32>,
    ) -> RequestLimits {
        // Requests that still wait under the last limit are not refused because there is none any more.
        if organization_limit > 0 {
            self.requests.set_limit(organization_limit);
        }
        if limit_of_key(organization_limit, key_limit) == 0 {
            return limits.of_request(None, None);
        }
        let organization = (organization_limit > 0).then(|| Arc::clone(&self.requests));
        let narrower = key_limit.filter(|own| organization_limit == 0 || *own < organization_limit);
        let key = narrower.map(|own| {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.get_or_insert((limit_scope, own), || limits.scope(limit_scope.as_uuid(), ScopeKind::Key, own))
        });
        limits.of_request(key, organization)
    }
}

/// The tenants that keys or requests refer to: as many as there are cached keys at most.
#[derive(Default)]
pub(crate) struct Tenants {
    by_id: Mutex<WeakMap<OrgId, Tenant>>,
    budgets: OrganizationBudgets,
}

impl Tenants {
    pub(crate) fn new(budgets: OrganizationBudgets) -> Self {
        Self { by_id: Mutex::default(), budgets }
    }

    pub(crate) fn get(&self, org_id: OrgId, limits: &Limits) -> Arc<Tenant> {
        let mut tenants = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.get_or_insert(org_id, || Tenant::new(org_id, limits, self.budgets.shares()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LimitSettings;

    #[test]
    fn all_keys_of_an_organization_share_its_state() {
        let (limits, tenants, org_id) = (Limits::new(LimitSettings::default()), Tenants::default(), OrgId::generate());
        let first = tenants.get(org_id, &limits);
        assert!(Arc::ptr_eq(&first, &tenants.get(org_id, &limits)));
        assert!(!Arc::ptr_eq(&first, &tenants.get(OrgId::generate(), &limits)));
        assert_eq!(first.org_id(), org_id);
    }

    #[test]
    fn a_key_limit_narrows_and_0_removes_all_limits() {
        let limits = Limits::new(LimitSettings::default());
        let tenant = Tenants::default().get(OrgId::generate(), &limits);
        let smallest = |organization, key| {
            let limits = tenant.limits_of_key(&limits, KeyId::generate(), organization, key);
            (1..2_000).find(|count| limits.exceeded_by(*count).is_some()).map(|count| count - 1)
        };
        assert_eq!(smallest(100, None), Some(100));
        assert_eq!(smallest(100, Some(10)), Some(10));
        assert_eq!(smallest(100, Some(1_000)), Some(100));
        assert_eq!(smallest(0, Some(10)), Some(10));
        assert_eq!(smallest(0, None), None);
        assert_eq!(smallest(100, Some(0)), None);
    }
}
