//! DNS for webhook requests, by the system's resolver. Look-ups are bounded per organization: names whose servers are
//! dead delay only the organization that has them. The egress policy filters what is found, and the client connects to
//! nothing else, so a name cannot change between the check and the connection.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use runtime::budget::{Budget, KeyedShares};
use schemas::ids::OrgId;

use crate::attempt::failure::{Failure, NotSent};
use crate::attempt::single_flight::{Flight, SingleFlight};

/// Look-ups in flight. Each uses a thread of the runtime's blocking pool until the system's resolver returns.
const MAX_LOOKUPS: u64 = 128;
const MAX_LOOKUPS_PER_ORGANIZATION: u64 = 4;
/// Shorter than the shortest time-out of an endpoint, so that a wait for a place is never taken for a slow endpoint.
const PLACE_TIMEOUT: Duration = Duration::from_millis(500);
/// Names in the cache.
const MAX_NAMES: u64 = 10_000;
const MAX_ADDRESSES: usize = 16;
/// How long an outcome is kept: the system's resolver does not say how long it is valid.
const KEPT_FOR: Duration = Duration::from_secs(5);

type Outcome = Result<Arc<[IpAddr]>, Failure>;

/// Cloning shares cache and bounds.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Inner>);

struct Inner {
    known: Cache<String, Outcome>,
    places: KeyedShares<OrgId>,
    /// Requests of an organization to one name share a look-up.
    lookups: SingleFlight<(OrgId, String), Outcome>,
}

impl Resolver {
    pub(crate) fn new() -> Self {
        let known = Cache::builder().max_capacity(MAX_NAMES).time_to_live(KEPT_FOR).build();
        let budget = Budget::new("webhook_lookups", MAX_LOOKUPS, MAX_LOOKUPS_PER_ORGANIZATION);
        let places = KeyedShares::new(budget);
        Self(Arc::new(Inner { known, places, lookups: SingleFlight::default() }))
    }

    /// All addresses of a name.
    ///
    /// # Errors
    /// If there is none, or the look-up could not be made.
    pub(crate) async fn look_up(&self, org_id: OrgId, name: &str) -> Outcome {
        match self.0.known.get(name) {
            Some(known) => known,
            None => self.join(org_id, name).await,
        }
    }

    /// The look-up of this name that is in flight, or a new one.
    fn join(&self, org_id: OrgId, name: &str) -> Flight<Outcome> {
        let (inner, name) = (self.0.clone(), name.to_owned());
        self.0.lookups.join(&(org_id, name.clone()), || async move { inner.look_up(org_id, name).await })
    }
}

impl Inner {
    async fn look_up(&self, org_id: OrgId, name: String) -> Outcome {
        let place = self.places.of(org_id).take_when_free(1, PLACE_TIMEOUT).await;
        let place = place.map_err(|_| Failure::NotSent(NotSent::NoLookupPlace))?;
        let known = self.known.clone();
        // The thread keeps the place: after the request's timeout it still waits for the name server.
        let lookup = move || {
            let found: Arc<[IpAddr]> = match (name.as_str(), 0).to_socket_addrs() {
                Ok(found) => found.take(MAX_ADDRESSES).map(|address| address.ip()).collect(),
                Err(_) => Arc::default(),
            };
            let outcome = if found.is_empty() { Err(Failure::NameUnknown) } else { Ok(found) };
            known.insert(name, outcome.clone());
            drop(place);
            outcome
        };
        tokio::task::spawn_blocking(lookup).await.unwrap_or(Err(Failure::NameUnknown))
    }
}

#[cfg(test)]
mod tests;
