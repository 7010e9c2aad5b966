//! New connections: look-up, TCP and TLS. Connects only to addresses that the egress policy allows.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::net::NetError;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::attempt::connection::Connection;
use crate::attempt::egress::{self, EgressPolicy, Refusal};
use crate::attempt::failure::{Failure, TlsFailure};
use crate::attempt::pool::Origin;
use crate::attempt::resolver::Resolver;

/// For look-up, TCP and TLS together.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An address that does not answer gets so much of a start before the next one is tried beside it.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// TLS cannot be set up. Fatal at start.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the system has no root certificates, so no webhook can be sent: install the package ca-certificates")]
    NoRoots,
    #[error("TLS for webhooks could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("DNS for webhooks could not be set up: {0}")]
    Dns(#[from] NetError),
}

/// TLS with ring and the certificate authorities of the system.
///
/// # Errors
/// If there are none.
pub(crate) fn tls_config() -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err(ClientError::NoRoots);
    }
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions()?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

/// Cloning shares the look-ups and TLS sessions.
#[derive(Clone)]
pub(crate) struct Connector {
    resolver: Resolver,
    tls: Arc<ClientConfig>,
}

impl Connector {
    pub(crate) fn new(resolver: Resolver, tls: ClientConfig) -> Self {
        Self { resolver, tls: Arc::new(tls) }
    }

    /// With the certificate of the origin, if it has one. A session of TLS has the certificate of its first connection,
    /// so sessions with one are not kept.
    fn tls(&self, origin: &Origin) -> TlsConnector {
        let Some(certificate) = &origin.certificate else { return TlsConnector::from(self.tls.clone()) };
        let mut tls = ClientConfig::clone(&self.tls);
        tls.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certificate.key()));
        tls.resumption = Resumption::disabled();
        TlsConnector::from(Arc::new(tls))
    }

    /// Connects within [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// The step that failed.
    pub(crate) async fn connect(&self, origin: &Origin, policy: &EgressPolicy) -> Result<Connection, Failure> {
        let connecting = async {
            let addresses = self.addresses(origin, policy).await?;
            let stream = connect_to_first(addresses, origin.port).await?;
            self.start_http(origin, stream).await
        };
        let timed_out = || Failure::Timeout(CONNECT_TIMEOUT.as_secs());
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| timed_out())?
    }

    /// The addresses of the host that the policy allows: never empty.
    async fn addresses(&self, origin: &Origin, policy: &EgressPolicy) -> Result<Vec<IpAddr>, Failure> {
        let mut addresses = match egress::literal(&origin.host) {
            Some(address) => vec![address],
            None => self.resolver.look_up(origin.org_id, &origin.host).await?.to_vec(),
        };
        let mut refusal = Refusal::Address;
        addresses.retain(|address| match policy.check_address(*address, origin.port) {
            Ok(_) => true,
            Err(why) => {
                refusal = why;
                false
            }
        });
        if addresses.is_empty() { Err(refusal.into()) } else { Ok(addresses) }
    }

    async fn start_http(&self, origin: &Origin, stream: TcpStream) -> Result<Connection, Failure> {
        let remote = stream.peer_addr().map_err(|_| Failure::NoConnection)?;
        // A request is written at once; without this, its end may wait for an acknowledgement.
        stream.set_nodelay(true).map_err(|_| Failure::NoConnection)?;
        let opened = if origin.is_tls {
            let name = match egress::literal(&origin.host) {
                Some(address) => ServerName::from(address),
                None => ServerName::try_from(origin.host.clone()).map_err(|_| Failure::Tls(TlsFailure::Name))?,
            };
            let stream = self.tls(origin).connect(name, stream).await;
            Connection::open(stream.map_err(|error| Failure::Tls(TlsFailure::of(&error)))?, remote).await
        } else {
            Connection::open(stream, remote).await
        };
        opened.map_err(|_| Failure::NoConnection)
    }
}

/// The first connection that an address accepts. The addresses start one after another; a failure starts the next.
async fn connect_to_first(addresses: Vec<IpAddr>, port: u16) -> Result<TcpStream, Failure> {
    let mut waiting = addresses.into_iter().take(MAX_ADDRESSES).map(|address| SocketAddr::new(address, port));
    let mut connecting: JoinSet<std::io::Result<TcpStream>> = JoinSet::new();
    let mut failure = Failure::NoConnection;
    loop {
        let started = waiting.next().map(|address| connecting.spawn(TcpStream::connect(address)));
        if started.is_none() && connecting.is_empty() {
            return Err(failure);
        }
        let joined = if waiting.len() > 0 {
            tokio::time::timeout(NEXT_ADDRESS_AFTER, connecting.join_next()).await.ok().flatten()
        } else {
            connecting.join_next().await
        };
        match joined {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) if error.kind() == ErrorKind::ConnectionRefused => {
                failure = Failure::ConnectionRefused;
            }
            _ => {}
        }
    }
}
