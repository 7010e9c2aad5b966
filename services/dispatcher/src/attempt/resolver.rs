//! DNS for webhook requests: the system resolves names, and the egress policy filters the addresses. The client
//! connects only to addresses returned here, so a name cannot change between the check and the connection.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use crate::attempt::egress::{AddressClass, EgressPolicy};

/// Concurrent lookups. Each uses a thread of the runtime's blocking pool until the system's resolver returns.
const MAX_LOOKUPS: usize = 128;

/// All addresses of the name are refused.
#[derive(Debug, thiserror::Error)]
#[error("the address is private, local or reserved and not allowed")]
pub(crate) struct AddressRefused;

#[derive(Debug, thiserror::Error)]
#[error("the host name could not be resolved")]
pub(crate) struct NameUnknown;

pub(crate) struct GuardedResolver {
    policy: Arc<EgressPolicy>,
    lookups: Arc<Semaphore>,
}

impl GuardedResolver {
    pub(crate) fn new(policy: Arc<EgressPolicy>) -> Self {
        Self { policy, lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookups) = (self.policy.clone(), self.lookups.clone());
        Box::pin(async move {
            let permit = lookups.acquire_owned().await?;
            // The thread keeps the permit: after the request's timeout it still waits for the name server.
            let lookup = move || {
                let found = (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
                drop(permit);
                found
            };
            let found = tokio::task::spawn_blocking(lookup).await?.map_err(|_| NameUnknown)?;
            if found.is_empty() {
                return Err(NameUnknown.into());
            }
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|address| policy.classify(address.ip()) != AddressClass::Refused).collect();
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
    async fn refused_addresses_are_filtered_after_dns() {
        assert_eq!(resolve(EgressPolicy::default()).await, Err(AddressRefused.to_string()));
        let listed = EgressPolicy { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], allow_http: true };
        let found = resolve(listed).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.is_ipv4()), "{found:?}");
    }
}
