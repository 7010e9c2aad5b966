//! Which endpoints an event goes to: an in-memory picture of all endpoints, kept up by version.
//!
//! Pure. Reading the changes from the database is `directory`'s business.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::Url;
use schemas::ids::{EndpointId, OrgId};

use crate::sign::Secret;

/// An endpoint as the dispatcher uses it.
#[derive(Clone)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Whose it is.
    pub org_id: OrgId,
    /// Where requests go.
    pub url: Url,
    /// See [`matches`].
    pub event_types: Vec<String>,
    /// Every one signs.
    pub secrets: Vec<Secret>,
    /// Sent along with each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Requests at once.
    pub max_in_flight: usize,
    /// Bound of one request in all.
    pub timeout: Duration,
    /// Delays before the retries.
    pub retry_delays_seconds: Vec<u32>,
    /// A disabled endpoint matches nothing and its rows are held.
    pub enabled: bool,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URL and headers may carry credentials.
        f.debug_struct("Endpoint")
            .field("id", &self.id)
            .field("org_id", &self.org_id)
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

/// One endpoint as a newer version of the table has it.
#[derive(Debug)]
pub enum Change {
    /// It is new, or was changed.
    Put(Box<Endpoint>),
    /// It is there and cannot be used: its secrets do not open.
    Unusable(EndpointId),
    /// It was deleted.
    Removed(EndpointId),
}

/// How an endpoint stands.
#[derive(Debug, Clone, Copy)]
pub enum Standing<'a> {
    /// It may be sent to.
    Enabled(&'a Arc<Endpoint>),
    /// It is there, and is sent nothing for now.
    Disabled,
    /// It was deleted.
    Gone,
}

/// All endpoints at one version.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    version: i64,
    /// `None`: it is there and cannot be used.
    by_id: HashMap<EndpointId, Option<Arc<Endpoint>>>,
    by_org: HashMap<OrgId, Vec<Arc<Endpoint>>>,
}

impl Snapshot {
    /// The version it shows.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Takes changes in, which bring it to `version`.
    pub fn apply(&mut self, changes: Vec<Change>, version: i64) {
        for change in changes {
            let id = match &change {
                Change::Put(endpoint) => endpoint.id,
                Change::Unusable(id) | Change::Removed(id) => *id,
            };
            if let Some(Some(old)) = self.by_id.remove(&id)
                && let Some(of_org) = self.by_org.get_mut(&old.org_id)
            {
                of_org.retain(|endpoint| endpoint.id != id);
                if of_org.is_empty() {
                    self.by_org.remove(&old.org_id);
                }
            }
            match change {
                Change::Put(endpoint) => {
                    let endpoint = Arc::new(*endpoint);
                    self.by_org.entry(endpoint.org_id).or_default().push(endpoint.clone());
                    self.by_id.insert(id, Some(endpoint));
                }
                Change::Unusable(id) => {
                    self.by_id.insert(id, None);
                }
                Change::Removed(_) => {}
            }
        }
        self.version = version;
    }

    /// Whether the organization has any endpoint.
    pub fn knows(&self, org_id: OrgId) -> bool {
        self.by_org.contains_key(&org_id)
    }

    /// The endpoints that an event of this organization and type goes to. An organization nobody knows has none.
    pub fn matching<'a>(&'a self, org_id: OrgId, event_type: &'a str) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        let of_org = self.by_org.get(&org_id).map_or(&[][..], Vec::as_slice);
        of_org.iter().filter(move |endpoint| endpoint.enabled && matches(&endpoint.event_types, event_type))
    }

    /// How an endpoint stands.
    pub fn standing(&self, id: EndpointId) -> Standing<'_> {
        match self.by_id.get(&id) {
            Some(Some(endpoint)) if endpoint.enabled => Standing::Enabled(endpoint),
            Some(_) => Standing::Disabled,
            None => Standing::Gone,
        }
    }
}

/// Whether a list of patterns takes a type: an empty list takes all, `order.*` what begins with `order.`, any other text itself.
pub fn matches(patterns: &[String], event_type: &str) -> bool {
    let taken = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('.') => event_type.starts_with(prefix),
        _ => pattern == event_type,
    };
    patterns.is_empty() || patterns.iter().any(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
    }

    fn endpoint(id: EndpointId, org_id: OrgId, event_types: &[&str]) -> Endpoint {
        Endpoint {
            id,
            org_id,
            url: Url::parse("https://example.com/").unwrap(),
            event_types: list(event_types),
            secrets: Vec::new(),
            headers: Vec::new(),
            max_in_flight: 1,
            timeout: Duration::from_secs(1),
            retry_delays_seconds: Vec::new(),
            enabled: true,
        }
    }

    fn ids(snapshot: &Snapshot, org_id: OrgId, event_type: &str) -> Vec<EndpointId> {
        snapshot.matching(org_id, event_type).map(|endpoint| endpoint.id).collect()
    }

    #[test]
    fn patterns_take_all_a_prefix_or_one_type() {
        assert!(matches(&[], "anything"));
        let patterns = list(&["order.*", "invoice.paid"]);
        for (event_type, taken) in [
            ("order.created", true),
            ("order.a.b", true),
            ("order.", true),
            ("order", false),
            ("orders.created", false),
            ("invoice.paid", true),
            ("invoice.paid.late", false),
            ("Order.created", false),
        ] {
            assert_eq!(matches(&patterns, event_type), taken, "{event_type}");
        }
        assert!(!matches(&list(&["or*"]), "order"));
    }

    #[test]
    fn an_event_goes_to_its_own_organizations_enabled_endpoints_only() {
        let (org, other) = (OrgId::generate(), OrgId::generate());
        let (one, two, theirs) = (EndpointId::generate(), EndpointId::generate(), EndpointId::generate());
        let mut snapshot = Snapshot::default();
        let put = |endpoint| Change::Put(Box::new(endpoint));
        snapshot.apply(vec![put(endpoint(one, org, &[])), put(endpoint(two, org, &["a.*"])), put(endpoint(theirs, other, &[]))], 3);
        assert_eq!(ids(&snapshot, org, "a.b"), [one, two]);
        assert_eq!(ids(&snapshot, org, "b"), [one]);
        assert_eq!(ids(&snapshot, OrgId::generate(), "a.b"), []);

        let disabled = Endpoint { enabled: false, ..endpoint(one, org, &[]) };
        snapshot.apply(vec![put(disabled), Change::Removed(theirs), Change::Removed(EndpointId::generate())], 4);
        assert_eq!(ids(&snapshot, org, "a.b"), [two]);
        assert_eq!(ids(&snapshot, other, "a.b"), []);
        assert!(matches!(snapshot.standing(one), Standing::Disabled) && matches!(snapshot.standing(theirs), Standing::Gone));
        snapshot.apply(vec![Change::Unusable(two)], 5);
        assert!(matches!(snapshot.standing(two), Standing::Disabled) && ids(&snapshot, org, "a.b").is_empty());
        snapshot.apply(vec![put(endpoint(two, org, &[]))], 4);
        assert!(matches!(snapshot.standing(two), Standing::Enabled(_)));
        assert_eq!(snapshot.version(), 4);
    }
}
