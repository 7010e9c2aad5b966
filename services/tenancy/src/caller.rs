//! The caller of a request: the authenticated key and its rights. `extract` has the extractor.

use std::sync::Arc;

use http_server::Problem;
use runtime::budget::Permit;
use schemas::ids::{KeyId, OrgId};

use crate::budgets::OrganizationShares;
use crate::role::{Right, Role};

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
    /// What its organization holds.
    pub shares: OrganizationShares,
    /// Counts the request of this caller while it is handled.
    pub(crate) request: Option<Arc<Permit>>,
}

impl Caller {
    /// # Errors
    /// 403 when the role of the key does not grant the right.
    pub fn require(&self, right: Right) -> Result<(), Problem> {
        if self.role.grants(right) {
            return Ok(());
        }
        Err(Problem::forbidden(format!("a key with the role {} may not do this", self.role.name())))
    }

    /// Whether the key may read and send events of this type.
    pub fn allows_event_type(&self, event_type: &str) -> bool {
        self.event_types.as_ref().is_none_or(|types| types.iter().any(|own| own == event_type))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budgets::OrganizationBudgets;

    #[test]
    fn a_restricted_key_is_limited_to_its_event_types() {
        let mut caller = Caller {
            org_id: OrgId::generate(),
            key_id: KeyId::generate(),
            role: Role::Consume,
            event_types: None,
            content_dedup: false,
            shares: OrganizationBudgets::default().shares(),
            request: None,
        };
        assert!(caller.allows_event_type("a"));
        caller.event_types = Some(Arc::from(["a".to_owned()]));
        assert!(caller.allows_event_type("a") && !caller.allows_event_type("ab"));
        assert!(caller.require(Right::Consume).is_ok());
        assert_eq!(caller.require(Right::Produce).unwrap_err().error_code(), "forbidden");
    }
}
