//! DNS for webhook requests. Look-ups are bounded per organization: names whose servers are dead delay only the
//! organization that has them. A look-up that nobody waits for any more is given up, and holds no thread. The egress
//! policy filters what is found, and the client connects to nothing else, so a name cannot change between the check and
//! the connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use moka::sync::Cache;
use runtime::budget::{Budget, KeyedShares};
use schemas::ids::OrgId;
use tracing::warn;

use crate::attempt::failure::{Failure, NotSent};
use crate::attempt::single_flight::{Flight, SingleFlight};

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
/// How long a name server may take, and how often it is asked once more. A wait for a place and a look-up are shorter
/// than the time for a connection, which would cut it short: nobody would learn that the name server is dead.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
const SERVER_RETRIES: usize = 1;

type Outcome = Result<Arc<[IpAddr]>, Failure>;

/// Cloning shares cache and bounds.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Inner>);

struct Inner {
    dns: TokioResolver,
    known: Cache<String, Outcome>,
    places: KeyedShares<OrgId>,
    /// Requests of an organization to one name share a look-up.
    lookups: SingleFlight<(OrgId, String), Outcome>,
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
        let lookups = SingleFlight::default();
        Ok(Self(Arc::new(Inner { dns: dns(name_servers)?, known, places, lookups })))
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
        let outcome = match self.dns.lookup_ip(name.as_str()).await {
            Ok(found) => Ok(found.iter().take(MAX_ADDRESSES).collect::<Arc<[IpAddr]>>()),
            Err(error) => Err(failure(&error)),
        };
        drop(place);
        let outcome = outcome.and_then(|found| if found.is_empty() { Err(Failure::NameUnknown) } else { Ok(found) });
        self.known.insert(name, outcome.clone());
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
    // It counts the retries.
    options.attempts = SERVER_RETRIES;
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
