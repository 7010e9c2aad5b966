//! DNS for webhook requests.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::attempt::failure::Failure;

/// Concurrent lookups. Each uses a thread of the runtime's blocking pool until the system's resolver returns.
const MAX_LOOKUPS: usize = 128;

/// Cloning shares the bound.
#[derive(Clone)]
pub(crate) struct Resolver {
    lookups: Arc<Semaphore>,
}

impl Resolver {
    pub(crate) fn new() -> Self {
        Self { lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }

    /// All addresses of a name.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let permit = self.lookups.clone().acquire_owned().await.map_err(|_| Failure::NameUnknown)?;
        let name = name.to_owned();
        // The thread keeps the permit: after the request's timeout it still waits for the name server.
        let lookup = move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            drop(permit);
            found.map(|addresses| addresses.map(|address| address.ip()).collect::<Vec<_>>())
        };
        let found = tokio::task::spawn_blocking(lookup).await.ok().and_then(Result::ok).unwrap_or_default();
        if found.is_empty() { Err(Failure::NameUnknown) } else { Ok(found) }
    }
}
