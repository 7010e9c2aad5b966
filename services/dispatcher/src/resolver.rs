//! DNS for webhook requests: names are resolved by the system and the answer is filtered by the egress policy. The
//! client connects to what is returned here and to nothing else, so a name cannot point elsewhere between the check and
//! the connection.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use crate::egress::{EgressPolicy, Reach};

/// Look-ups at once. Each holds a thread of the runtime's blocking pool for as long as the system's resolver takes.
const MAX_LOOKUPS: usize = 128;

/// Every address of a name is one that must not be reached.
#[derive(Debug, thiserror::Error)]
#[error("the address is private, local or reserved and not allowed")]
pub(crate) struct AddressRefused;

/// The name has no address.
#[derive(Debug, thiserror::Error)]
#[error("the host name could not be resolved")]
pub(crate) struct NameUnknown;

/// Resolves and filters.
pub(crate) struct GuardedResolver {
    policy: Arc<EgressPolicy>,
    lookups: Arc<Semaphore>,
}

impl GuardedResolver {
    /// A resolver that answers only what `policy` lets through.
    pub(crate) fn new(policy: Arc<EgressPolicy>) -> Self {
        Self { policy, lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookups) = (self.policy.clone(), self.lookups.clone());
        Box::pin(async move {
            let place = lookups.acquire_owned().await?;
            // The place goes with the thread: one that a request no longer waits for still asks a dead name server.
            let look_up = move || {
                let found = (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
                drop(place);
                found
            };
            let found = tokio::task::spawn_blocking(look_up).await?.map_err(|_| NameUnknown)?;
            if found.is_empty() {
                return Err(NameUnknown.into());
            }
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|address| policy.reach(address.ip()) != Reach::Refused).collect();
            if allowed.is_empty() {
                return Err(AddressRefused.into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolve(policy: EgressPolicy) -> Result<Vec<SocketAddr>, String> {
        let name = "localhost".parse().unwrap();
        let outcome = GuardedResolver::new(Arc::new(policy)).resolve(name).await;
        outcome.map(Iterator::collect).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_refused_address_has_none() {
        assert_eq!(resolve(EgressPolicy::default()).await, Err(AddressRefused.to_string()));
        let listed = EgressPolicy { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], allow_http: true };
        let found = resolve(listed).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.is_ipv4()), "{found:?}");
    }
}
