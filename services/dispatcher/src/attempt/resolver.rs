//! DNS for webhook requests. Look-ups are bounded per organization: names whose servers are dead delay only the
//! organization that has them. A look-up that nobody waits for any more is given up, and holds no thread. The egress
//! policy filters what is found, and the client connects to nothing else, so a name cannot change between the check and
//! the connection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use moka::sync::Cache;
use runtime::budget::{Budget, KeyedShares};
use schemas::ids::OrgId;
use tracing::warn;

use crate::attempt::failure::{Failure, NotSent};

/// Look-ups in flight.
const MAX_LOOKUPS: u64 = 128;
const MAX_LOOKUPS_PER_ORGANIZATION: u64 = 4;
/// Shorter than the shortest time-out of an endpoint, so that a wait for a place is never taken for a slow endpoint.
const PLACE_TIMEOUT: Duration = Duration::from_millis(500);
/// Names in the cache.
const MAX_NAMES: u64 = 10_000;
const MAX_ADDRESSES: usize = 16;
/// How long an outcome is kept for everybody, a failure too. An answer is kept longer for its own name: as long as its
/// name server says, but not longer than that.
const KEPT_FOR: Duration = Duration::from_secs(5);
const KEPT_AT_MOST: Duration = Duration::from_secs(60);
/// How long a name server may take, and how often it is asked.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
const SERVER_ATTEMPTS: usize = 2;

type Outcome = Result<Arc<[IpAddr]>, Failure>;
type Lookup = Shared<BoxFuture<'static, Outcome>>;

/// Cloning shares cache and bounds.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Inner>);

struct Inner {
    dns: TokioResolver,
    known: Cache<String, Outcome>,
    places: KeyedShares<OrgId>,
    lookups: Mutex<Lookups>,
}

/// A look-up that requests to one name wait for.
type SharedLookup = WeakShared<BoxFuture<'static, Outcome>>;

/// Look-ups in flight: requests of an organization to one name share one.
#[derive(Default)]
struct Lookups {
    next_number: u64,
    by_name: HashMap<(OrgId, String), (u64, SharedLookup)>,
}

impl Resolver {
    /// Asks these name servers; none: those of `/etc/resolv.conf`. Names in `/etc/hosts` are known without them.
    ///
    /// # Errors
    /// If DNS cannot be set up.
    pub(crate) fn new(name_servers: &[SocketAddr]) -> Result<Self, NetError> {
        let known = Cache::builder().max_capacity(MAX_NAMES).time_to_live(KEPT_FOR).build();
        let budget = Budget::new("webhook_lookups", MAX_LOOKUPS, MAX_LOOKUPS_PER_ORGANIZATION);
        let places = KeyedShares::new(budget);
        Ok(Self(Arc::new(Inner { dns: dns(name_servers)?, known, places, lookups: Mutex::default() })))
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
    fn join(&self, org_id: OrgId, name: &str) -> Lookup {
        let key = (org_id, name.to_owned());
        let mut lookups = self.0.lookups();
        if let Some(lookup) = lookups.by_name.get(&key).and_then(|(_, lookup)| lookup.upgrade()) {
            return lookup;
        }
        lookups.next_number += 1;
        let number = lookups.next_number;
        let entry = Entry { inner: self.0.clone(), key: key.clone(), number };
        let lookup = async move { entry.inner.look_up(entry.key.0, &entry.key.1).await }.boxed().shared();
        if let Some(weak) = lookup.downgrade() {
            lookups.by_name.insert(key, (number, weak));
        }
        lookup
    }
}

/// The entry of a look-up in flight; removed when the look-up ends or is cancelled.
struct Entry {
    inner: Arc<Inner>,
    key: (OrgId, String),
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut lookups = self.inner.lookups();
        // A later look-up of the name may have replaced it.
        if lookups.by_name.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            lookups.by_name.remove(&self.key);
        }
    }
}

impl Inner {
    fn lookups(&self) -> MutexGuard<'_, Lookups> {
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_up(&self, org_id: OrgId, name: &str) -> Outcome {
        let place = self.places.of(org_id).take_when_free(1, PLACE_TIMEOUT).await;
        let place = place.map_err(|_| Failure::NotSent(NotSent::NoLookupPlace))?;
        let outcome = match self.dns.lookup_ip(name).await {
            Ok(found) => Ok(found.iter().take(MAX_ADDRESSES).collect::<Arc<[IpAddr]>>()),
            Err(error) => Err(failure(&error)),
        };
        drop(place);
        let outcome = outcome.and_then(|found| if found.is_empty() { Err(Failure::NameUnknown) } else { Ok(found) });
        self.known.insert(name.to_owned(), outcome.clone());
        outcome
    }
}

/// What the failure of a look-up is to the attempt. A name that cannot be parsed is unknown too.
fn failure(error: &NetError) -> Failure {
    match error {
        NetError::Timeout | NetError::NoConnections | NetError::Io(_) | NetError::Busy => Failure::NameServer,
        _ => Failure::NameUnknown,
    }
}

fn dns(name_servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let of = |servers: &[SocketAddr]| {
        let servers = servers.iter().map(|server| name_server(*server)).collect();
        ResolverConfig::from_parts(None, Vec::new(), servers)
    };
    let mut builder = if name_servers.is_empty() {
        match TokioResolver::builder_tokio() {
            Ok(builder) => builder,
            Err(error) => {
                // What the C library does then.
                warn!(%error, "Name servers of /etc/resolv.conf are unknown; asking the one on this machine.");
                TokioResolver::builder_with_config(of(&[SocketAddr::from(([127, 0, 0, 1], 53))]), provider)
            }
        }
    } else {
        TokioResolver::builder_with_config(of(name_servers), provider)
    };
    let options = builder.options_mut();
    options.timeout = SERVER_TIMEOUT;
    options.attempts = SERVER_ATTEMPTS;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = MAX_NAMES;
    options.positive_max_ttl = Some(KEPT_AT_MOST);
    options.negative_max_ttl = Some(KEPT_FOR);
    builder.build()
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections.into())
}

#[cfg(test)]
mod tests;
