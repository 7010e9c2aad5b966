//! Which endpoints get an event: a snapshot of all endpoints at one version. Pure.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use schemas::ids::{EndpointId, OrgId};
use time::OffsetDateTime;
use url::Url;

use super::event_types::matches;
use super::filter::Filter;
use super::filter::payload::Payload;
use crate::attempt::authorization::Authorization;
use crate::attempt::compat_sign::CompatSigner;
use crate::attempt::sign::Secret;
use crate::batch::settings::BatchSettings;

/// Which events an endpoint gets. Also of an endpoint that cannot be used.
#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    pub id: EndpointId,
    pub org_id: OrgId,
    pub event_types: Vec<String>,
    pub filter: Option<Filter>,
    /// Its deliveries have lanes.
    pub ordered: bool,
    pub ack_on_success: bool,
    /// A disabled endpoint matches no events, and its deliveries are held.
    pub enabled: bool,
}

/// An endpoint as requests need it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub id: EndpointId,
    pub org_id: OrgId,
    pub url: Url,
    pub secrets: Secrets,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub authorization: Option<Authorization>,
    /// The second signature.
    pub compat_signer: Option<CompatSigner>,
    /// Maximum of requests in flight.
    pub max_in_flight: usize,
    /// `None`: no limit.
    pub rate_limit_per_second: Option<u32>,
    /// Of one request, including its response.
    pub timeout: Duration,
    /// Delays before the retries.
    pub retry_delays_seconds: Vec<u32>,
    /// `None`: each request has one event.
    pub batch: Option<BatchSettings>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URL and headers may carry credentials.
        f.debug_struct("Endpoint").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The secrets of an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Secrets {
    /// The current one, and the previous one after a rotation.
    pub all: Vec<Secret>,
    /// Until when the previous one signs.
    pub previous_expires_at: Option<OffsetDateTime>,
}

impl Secrets {
    /// Those that sign at this time, seconds since the Unix epoch. Each adds a signature.
    pub(crate) fn at(&self, unix_seconds: i64) -> &[Secret] {
        // The second in which it ends still has it: it never ends before it was said to.
        let overlaps = self.previous_expires_at.is_some_and(|end| unix_seconds <= end.unix_timestamp());
        let count = if overlaps { self.all.len() } else { 1 };
        self.all.get(..count).unwrap_or(&self.all)
    }
}

/// A change of one endpoint.
#[derive(Debug)]
pub(crate) enum Change {
    /// New or changed. `None`: it cannot be used, since the sealing key does not open its secrets.
    Put(Subscription, Option<Box<Endpoint>>),
    Removed(EndpointId),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum EndpointState<'a> {
    Enabled(&'a Arc<Endpoint>),
    /// Disabled or unusable: its deliveries are held.
    Withheld,
    /// Deleted, or its organization is being erased.
    Gone,
}

/// All endpoints at one version.
#[derive(Debug, Default, Clone)]
pub(crate) struct Snapshot {
    version: i64,
    /// `None`: the endpoint cannot be used.
    by_id: HashMap<EndpointId, (Arc<Subscription>, Option<Arc<Endpoint>>)>,
    by_org: HashMap<OrgId, Vec<Arc<Subscription>>>,
    /// Enabled endpoints that cannot be used.
    unusable: BTreeSet<EndpointId>,
    /// Organizations that are being erased: their endpoints count as deleted. Sorted.
    erasing: Vec<OrgId>,
}

impl Snapshot {
    pub(crate) fn version(&self) -> i64 {
        self.version
    }

    /// Organizations that are being erased; sorted.
    pub(crate) fn erasing(&self) -> &[OrgId] {
        &self.erasing
    }

    /// `erasing` must be sorted.
    pub(crate) fn set_erasing(&mut self, erasing: Vec<OrgId>) {
        self.erasing = erasing;
    }

    fn is_erasing(&self, org_id: OrgId) -> bool {
        self.erasing.binary_search(&org_id).is_ok()
    }

    /// The version to which the applied changes lead.
    pub(crate) fn set_version(&mut self, version: i64) {
        self.version = version;
    }

    pub(crate) fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
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

    pub(crate) fn has_endpoints(&self, org_id: OrgId) -> bool {
        self.by_org.contains_key(&org_id) && !self.is_erasing(org_id)
    }

    /// The endpoints that get an event of this organization, type and payload, including unusable ones, so that their
    /// events are not lost.
    pub(crate) fn matching(&self, org_id: OrgId, event_type: &str, payload: &Payload<'_>) -> Vec<EndpointId> {
        let of_org = self.by_org.get(&org_id).filter(|_| !self.is_erasing(org_id)).map_or(&[][..], Vec::as_slice);
        let is_for = |one: &&Arc<Subscription>| {
            one.enabled
                && matches(&one.event_types, event_type)
                && one.filter.as_ref().is_none_or(|filter| filter.holds(payload))
        };
        of_org.iter().filter(is_for).map(|subscription| subscription.id).collect()
    }

    pub(crate) fn is_ordered(&self, id: EndpointId) -> bool {
        self.by_id.get(&id).is_some_and(|(subscription, _)| subscription.ordered)
    }

    /// Whether an endpoint of the organization acknowledges events.
    pub(crate) fn has_ack_on_success(&self, org_id: OrgId) -> bool {
        self.by_org.get(&org_id).is_some_and(|of_org| of_org.iter().any(|one| one.ack_on_success))
    }

    /// Enabled endpoints that cannot be used.
    pub(crate) fn unusable(&self) -> &BTreeSet<EndpointId> {
        &self.unusable
    }

    pub(crate) fn state(&self, id: EndpointId) -> EndpointState<'_> {
        match self.by_id.get(&id) {
            Some((subscription, _)) if self.is_erasing(subscription.org_id) => EndpointState::Gone,
            Some((subscription, Some(endpoint))) if subscription.enabled => EndpointState::Enabled(endpoint),
            Some(_) => EndpointState::Withheld,
            None => EndpointState::Gone,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An endpoint with a new id.
    pub(crate) fn endpoint_of(org_id: OrgId) -> Endpoint {
        Endpoint {
            id: EndpointId::generate(),
            org_id,
            url: Url::parse("https://example.com/").unwrap(),
            secrets: Secrets { all: Vec::new(), previous_expires_at: None },
            headers: Vec::new(),
            authorization: None,
            compat_signer: None,
            max_in_flight: 1,
            rate_limit_per_second: None,
            timeout: Duration::from_secs(1),
            retry_delays_seconds: Vec::new(),
            batch: None,
        }
    }

    fn list(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
    }

    fn subscription(id: EndpointId, org_id: OrgId, event_types: &[&str]) -> Subscription {
        Subscription {
            id,
            org_id,
            event_types: list(event_types),
            filter: None,
            ordered: false,
            ack_on_success: false,
            enabled: true,
        }
    }

    fn put(subscription: Subscription) -> Change {
        let endpoint = Endpoint { id: subscription.id, ..endpoint_of(subscription.org_id) };
        Change::Put(subscription, Some(Box::new(endpoint)))
    }

    fn ids(snapshot: &Snapshot, org_id: OrgId, event_type: &str) -> Vec<EndpointId> {
        snapshot.matching(org_id, event_type, &Payload::new(r#"{"n": 7}"#, false))
    }

    #[test]
    fn only_enabled_endpoints_of_the_organization_match() {
        let (org, other) = (OrgId::generate(), OrgId::generate());
        let (one, two, theirs) = (EndpointId::generate(), EndpointId::generate(), EndpointId::generate());
        let mut snapshot = Snapshot::default();
        snapshot.apply(vec![
            put(subscription(one, org, &[])),
            put(subscription(two, org, &["a.*"])),
            put(subscription(theirs, other, &[])),
        ]);
        assert_eq!(ids(&snapshot, org, "a.b"), [one, two]);
        assert_eq!(ids(&snapshot, org, "b"), [one]);
        assert_eq!(ids(&snapshot, OrgId::generate(), "a.b"), []);

        let disabled = Subscription { enabled: false, ..subscription(one, org, &[]) };
        snapshot.apply(vec![put(disabled), Change::Removed(theirs), Change::Removed(EndpointId::generate())]);
        snapshot.set_version(4);
        assert_eq!(ids(&snapshot, org, "a.b"), [two]);
        assert_eq!(ids(&snapshot, other, "a.b"), []);
        assert!(
            matches!(snapshot.state(one), EndpointState::Withheld)
                && matches!(snapshot.state(theirs), EndpointState::Gone)
        );
        assert_eq!(snapshot.version(), 4);
    }

    #[test]
    fn an_unusable_endpoint_matches_while_it_is_enabled() {
        let (org, id) = (OrgId::generate(), EndpointId::generate());
        let mut snapshot = Snapshot::default();
        let unusable = |enabled| Change::Put(Subscription { enabled, ..subscription(id, org, &["a"]) }, None);
        snapshot.apply(vec![unusable(true)]);
        assert!(snapshot.has_endpoints(org) && matches!(snapshot.state(id), EndpointState::Withheld));
        assert_eq!((ids(&snapshot, org, "a"), ids(&snapshot, org, "b")), (vec![id], vec![]));
        assert_eq!(snapshot.unusable(), &BTreeSet::from([id]));
        snapshot.apply(vec![unusable(false)]);
        assert!(ids(&snapshot, org, "a").is_empty() && snapshot.unusable().is_empty());
        snapshot.apply(vec![unusable(true), put(subscription(id, org, &[]))]);
        assert!(matches!(snapshot.state(id), EndpointState::Enabled(_)) && snapshot.unusable().is_empty());
        snapshot.apply(vec![unusable(true), Change::Removed(id)]);
        assert!(!snapshot.has_endpoints(org) && snapshot.unusable().is_empty());
    }

    #[test]
    fn a_filter_is_asked_only_for_matching_types() {
        let (org, id, other) = (OrgId::generate(), EndpointId::generate(), EndpointId::generate());
        let filter = |least: i64| {
            let filter = serde_json::json!({"path": "n", "gte": least});
            crate::endpoints::filter::read(&filter, "filter").ok()
        };
        let mut snapshot = Snapshot::default();
        snapshot.apply(vec![
            put(Subscription { filter: filter(7), ..subscription(id, org, &["a"]) }),
            put(Subscription { filter: filter(8), ..subscription(other, org, &["a"]) }),
        ]);
        assert_eq!((ids(&snapshot, org, "a"), ids(&snapshot, org, "b")), (vec![id], vec![]));
    }

    #[test]
    fn the_previous_secret_signs_until_its_time() {
        let end = OffsetDateTime::from_unix_timestamp_nanos(1_000_900_000_000).ok();
        let secrets = Secrets { all: vec![Secret::generate(), Secret::generate()], previous_expires_at: end };
        assert_eq!([999, 1000, 1001].map(|now| secrets.at(now).len()), [2, 2, 1]);
        let single = Secrets { all: vec![Secret::generate()], previous_expires_at: None };
        assert_eq!(single.at(0).len(), 1);
        assert_eq!(Secrets { all: Vec::new(), previous_expires_at: None }.at(0).len(), 0);
    }

    #[test]
    fn endpoints_of_an_erased_organization_are_gone() {
        let (org, other) = (OrgId::generate(), OrgId::generate());
        let (erased, kept) = (EndpointId::generate(), EndpointId::generate());
        let mut snapshot = Snapshot::default();
        snapshot.apply(vec![put(subscription(erased, org, &[])), put(subscription(kept, other, &[]))]);
        snapshot.set_erasing(vec![org]);
        assert!(!snapshot.has_endpoints(org) && ids(&snapshot, org, "a").is_empty());
        assert!(matches!(snapshot.state(erased), EndpointState::Gone));
        assert!(matches!(snapshot.state(kept), EndpointState::Enabled(_)) && ids(&snapshot, other, "a") == [kept]);
        snapshot.set_erasing(Vec::new());
        assert!(snapshot.has_endpoints(org), "a restored backup from before the tombstone has the endpoints again");
    }
}
