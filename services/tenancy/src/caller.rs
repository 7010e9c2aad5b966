//! The caller of a request: the authenticated key and its rights. `extract` has the extractor.

use std::sync::Arc;

use http::StatusCode;
use http_server::{Problem, RateLimitSlot};
use runtime::budget::Permit;
use schemas::ids::{KeyId, OrgId};

use crate::budgets::OrganizationShares;
use crate::limits::RequestLimits;
use crate::role::{Right, Role};
use crate::tenant::Tenant;

/// The authenticated key of a request. The extractor answers 401, 429 or 503 when authentication fails.
#[derive(Clone)]
pub struct Caller {
    /// The organization of the key. A request reads and writes only data of this organization.
    pub org_id: OrgId,
    pub key_id: KeyId,
    pub role: Role,
    /// The only event types that it may read or send; `None`: all.
    pub event_types: Option<Arc<[String]>>,
    /// Whether events with equal content are duplicates.
    pub content_dedup: bool,
    /// The state of the organization in this process.
    pub tenant: Arc<Tenant>,
    /// Counts the request of this caller while it is handled.
    pub(crate) request: Option<Arc<Permit>>,
    pub(crate) limits: RequestLimits,
    /// Where the request layer reads what the limits left.
    pub(crate) rate_limit: RateLimitSlot,
}

impl Caller {
    /// Counts events of a batch, each as a request: the extractor has counted one for the first event. All or none.
    /// `before`: events of the same batch that were counted already.
    ///
    /// # Errors
    /// 413 when the batch so far is larger than a whole limit; 429 when a limit is exceeded.
    pub async fn count_events(&self, before: u32, events: u32) -> Result<(), Problem> {
        if let Some(limit) = self.limits.exceeded_by(before.saturating_add(events)) {
            let detail = format!("a batch may have at most {limit} events, which is the whole rate limit of a minute");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large", detail));
        }
        let more = if before == 0 { events.saturating_sub(1) } else { events };
        if more == 0 { Ok(()) } else { self.limits.count(more, &self.rate_limit).await }
    }

    /// # Errors
    /// 403 when the role of the key does not grant the right.
    pub fn require(&self, right: Right) -> Result<(), Problem> {
        if self.role.grants(right) {
            return Ok(());
        }
        Err(Problem::forbidden(format!("a key with the role {} may not do this", self.role.name())))
    }

    /// What its organization holds in this process at once.
    pub fn shares(&self) -> &OrganizationShares {
        self.tenant.shares()
    }

    /// Whether the key may read and send events of this type.
    pub fn allows_event_type(&self, event_type: &str) -> bool {
        self.event_types.as_ref().is_none_or(|types| types.iter().any(|own| own == event_type))
    }
}

/// For tests, and for benchmarks of routes: requests get theirs from the extractor.
#[cfg(any(test, feature = "bench"))]
impl Caller {
    /// An admin key without limits.
    pub fn unlimited(org_id: OrgId) -> Self {
        let limits = crate::limits::Limits::new(crate::limits::LimitSettings::default());
        Self {
            org_id,
            key_id: KeyId::generate(),
            role: Role::Admin,
            event_types: None,
            content_dedup: false,
            request: None,
            tenant: crate::tenant::Tenants::default().get(org_id, &limits),
            limits: limits.of_request(None, None),
            rate_limit: RateLimitSlot::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restricted_key_is_limited_to_its_event_types() {
        let mut caller = Caller { role: Role::Consume, ..Caller::unlimited(OrgId::generate()) };
        assert!(caller.allows_event_type("a"));
        caller.event_types = Some(Arc::from(["a".to_owned()]));
        assert!(caller.allows_event_type("a") && !caller.allows_event_type("ab"));
        assert!(caller.require(Right::Consume).is_ok());
        assert_eq!(caller.require(Right::Produce).unwrap_err().error_code(), "forbidden");
    }
}
