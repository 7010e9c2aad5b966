//! Which endpoints an event goes to: an in-memory picture of all endpoints, kept up by version.
//!
//! Pure. Reading the changes from the database is `directory`'s business.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use reqwest::Url;
use schemas::ids::{EndpointId, OrgId};

use crate::sign::Secret;

/// Which events an endpoint is for: known of every endpoint, also of one that cannot be sent to.
#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    pub id: EndpointId,
    pub org_id: OrgId,
    pub event_types: Vec<String>,
    /// A disabled endpoint matches nothing and its rows are held.
    pub enabled: bool,
}

/// An endpoint as requests need it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub id: EndpointId,
    pub url: Url,
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
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URL and headers may carry credentials.
        f.debug_struct("Endpoint").field("id", &self.id).finish_non_exhaustive()
    }
}

/// One endpoint as a newer version of the table has it.
#[derive(Debug)]
pub(crate) enum Change {
    /// It is new, or was changed. `None`: it cannot be used, since its secrets do not open.
    Put(Subscription, Option<Box<Endpoint>>),
    Removed(EndpointId),
}

/// How an endpoint stands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Standing<'a> {
    /// It may be sent to.
    Enabled(&'a Arc<Endpoint>),
    /// It is there and is sent nothing for now: it is disabled, or cannot be used. What is for it is kept.
    Withheld,
    /// It was deleted, or its organization is being erased.
    Gone,
}

/// All endpoints at one version.
#[derive(Debug, Default, Clone)]
pub(crate) struct Snapshot {
    version: i64,
    /// `None`: it is there and cannot be used.
    by_id: HashMap<EndpointId, (Arc<Subscription>, Option<Arc<Endpoint>>)>,
    by_org: HashMap<OrgId, Vec<Arc<Subscription>>>,
    /// Enabled, and cannot be used.
    unusable: BTreeSet<EndpointId>,
    /// Organizations that are being erased: their endpoints count as deleted. Sorted.
    erasing: Vec<OrgId>,
}

impl Snapshot {
    /// The version it shows.
    pub(crate) fn version(&self) -> i64 {
        self.version
    }

    /// The organizations whose endpoints count as deleted since they are being erased.
    pub(crate) fn erasing(&self) -> &[OrgId] {
        &self.erasing
    }

    /// Sets the organizations that are being erased; sorted.
    pub(crate) fn set_erasing(&mut self, erasing: Vec<OrgId>) {
        self.erasing = erasing;
    }

    fn is_erasing(&self, org_id: OrgId) -> bool {
        self.erasing.binary_search(&org_id).is_ok()
    }

    /// Takes changes in, which bring it to `version`.
    pub(crate) fn apply(&mut self, changes: Vec<Change>, version: i64) {
        for change in changes {
            match change {
                Change::Put(subscription, endpoint) => {
                    self.remove(subscription.id);
                    if subscription.enabled && endpoint.is_none() {
                        self.unusable.insert(subscription.id);
                    }
                    let subscription = Arc::new(subscription);
                    self.by_org.entry(subscription.org_id).or_default().push(subscription.clone());
                    self.by_id.insert(subscription.id, (subscription, endpoint.map(Arc::from)));
                }
                Change::Removed(id) => self.remove(id),
            }
        }
        self.version = version;
    }

    fn remove(&mut self, id: EndpointId) {
        self.unusable.remove(&id);
        let Some((old, _)) = self.by_id.remove(&id) else { return };
        if let Some(of_org) = self.by_org.get_mut(&old.org_id) {
            of_org.retain(|subscription| subscription.id != id);
            if of_org.is_empty() {
                self.by_org.remove(&old.org_id);
            }
        }
    }

    /// Whether the organization has any endpoint.
    pub(crate) fn knows(&self, org_id: OrgId) -> bool {
        self.by_org.contains_key(&org_id) && !self.is_erasing(org_id)
    }

    /// The endpoints that an event of this organization and type goes to, also those that cannot be used: what is for
    /// them is not to be lost. An organization nobody knows has none.
    pub(crate) fn matching<'a>(&'a self, org_id: OrgId, event_type: &'a str) -> impl Iterator<Item = EndpointId> + 'a {
        let of_org = self.by_org.get(&org_id).filter(|_| !self.is_erasing(org_id)).map_or(&[][..], Vec::as_slice);
        let is_for = move |one: &&Arc<Subscription>| one.enabled && matches(&one.event_types, event_type);
        of_org.iter().filter(is_for).map(|subscription| subscription.id)
    }

    /// Endpoints that should be sent to and cannot be used.
    pub(crate) fn unusable(&self) -> &BTreeSet<EndpointId> {
        &self.unusable
    }

    /// How an endpoint stands.
    pub(crate) fn standing(&self, id: EndpointId) -> Standing<'_> {
        match self.by_id.get(&id) {
            Some((subscription, _)) if self.is_erasing(subscription.org_id) => Standing::Gone,
            Some((subscription, Some(endpoint))) if subscription.enabled => Standing::Enabled(endpoint),
            Some(_) => Standing::Withheld,
            None => Standing::Gone,
        }
    }
}

/// Whether a list of patterns takes a type: an empty list takes all, `order.*` what begins with `order.`, any other
/// text itself.
pub(crate) fn matches(patterns: &[String], event_type: &str) -> bool {
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

    fn subscription(id: EndpointId, org_id: OrgId, event_types: &[&str]) -> Subscription {
        Subscription { id, org_id, event_types: list(event_types), enabled: true }
    }

    fn put(subscription: Subscription) -> Change {
        let endpoint = Endpoint {
            id: subscription.id,
            url: Url::parse("https://example.com/").unwrap(),
            secrets: Vec::new(),
            headers: Vec::new(),
            max_in_flight: 1,
            timeout: Duration::from_secs(1),
            retry_delays_seconds: Vec::new(),
        };
        Change::Put(subscription, Some(Box::new(endpoint)))
    }

    fn ids(snapshot: &Snapshot, org_id: OrgId, event_type: &str) -> Vec<EndpointId> {
        snapshot.matching(org_id, event_type).collect()
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
        snapshot.apply(
            vec![
                put(subscription(one, org, &[])),
                put(subscription(two, org, &["a.*"])),
                put(subscription(theirs, other, &[])),
            ],
            3,
        );
        assert_eq!(ids(&snapshot, org, "a.b"), [one, two]);
        assert_eq!(ids(&snapshot, org, "b"), [one]);
        assert_eq!(ids(&snapshot, OrgId::generate(), "a.b"), []);

        let disabled = Subscription { enabled: false, ..subscription(one, org, &[]) };
        snapshot.apply(vec![put(disabled), Change::Removed(theirs), Change::Removed(EndpointId::generate())], 4);
        assert_eq!(ids(&snapshot, org, "a.b"), [two]);
        assert_eq!(ids(&snapshot, other, "a.b"), []);
        assert!(
            matches!(snapshot.standing(one), Standing::Withheld) && matches!(snapshot.standing(theirs), Standing::Gone)
        );
        assert_eq!(snapshot.version(), 4);
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_still_matches_and_is_named_while_it_is_enabled() {
        let (org, id) = (OrgId::generate(), EndpointId::generate());
        let mut snapshot = Snapshot::default();
        let unusable = |enabled| Change::Put(Subscription { enabled, ..subscription(id, org, &["a"]) }, None);
        snapshot.apply(vec![unusable(true)], 1);
        assert!(snapshot.knows(org) && matches!(snapshot.standing(id), Standing::Withheld));
        assert_eq!((ids(&snapshot, org, "a"), ids(&snapshot, org, "b")), (vec![id], vec![]));
        assert_eq!(snapshot.unusable(), &BTreeSet::from([id]));
        snapshot.apply(vec![unusable(false)], 2);
        assert!(ids(&snapshot, org, "a").is_empty() && snapshot.unusable().is_empty());
        snapshot.apply(vec![unusable(true), put(subscription(id, org, &[]))], 3);
        assert!(matches!(snapshot.standing(id), Standing::Enabled(_)) && snapshot.unusable().is_empty());
        snapshot.apply(vec![unusable(true), Change::Removed(id)], 4);
        assert!(!snapshot.knows(org) && snapshot.unusable().is_empty());
    }

    #[test]
    fn endpoints_of_an_organization_being_erased_count_as_deleted() {
        let (org, other) = (OrgId::generate(), OrgId::generate());
        let (erased, kept) = (EndpointId::generate(), EndpointId::generate());
        let mut snapshot = Snapshot::default();
        snapshot.apply(vec![put(subscription(erased, org, &[])), put(subscription(kept, other, &[]))], 1);
        snapshot.set_erasing(vec![org]);
        assert!(!snapshot.knows(org) && ids(&snapshot, org, "a").is_empty());
        assert!(matches!(snapshot.standing(erased), Standing::Gone));
        assert!(matches!(snapshot.standing(kept), Standing::Enabled(_)) && ids(&snapshot, other, "a") == [kept]);
        snapshot.set_erasing(Vec::new());
        assert!(snapshot.knows(org), "a backup from before the tombstone has it back");
    }
}
