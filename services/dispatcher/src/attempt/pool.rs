//! Idle connections to receivers, kept for the next request of the same organization to the same origin. The networks
//! that organizations may reach differ, so none gets the connection of another. A connection with the certificate of an
//! endpoint is kept for that endpoint.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use schemas::ids::OrgId;
use url::Url;

use crate::attempt::client_certificate::ClientCertificate;
use crate::attempt::connection::Connection;
use crate::endpoints::input::MAX_IN_FLIGHT;

/// Shorter than most servers keep idle connections: those that the server has closed cost a second sending.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// As many as an endpoint may have attempts in flight: with fewer, a busy endpoint would be connected to again and
/// again.
const MAX_IDLE_PER_ORIGIN: usize = MAX_IN_FLIGHT as usize;
const MAX_IDLE_PER_ORGANIZATION: usize = 1024;
const MAX_IDLE: usize = 4096;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a connection whose answer was read may take to become idle.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Whose connection it is, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub org_id: OrgId,
    pub is_tls: bool,
    /// As in the URL: an IPv6 address has brackets.
    pub host: String,
    pub port: u16,
    /// By which the dispatcher authenticates on the connection: then only requests of its endpoint use it.
    pub certificate: Option<ClientCertificate>,
}

impl Origin {
    /// Without a certificate. `None`: the URL has no host, or no port that is known.
    pub(crate) fn of(org_id: OrgId, url: &Url) -> Option<Self> {
        let (host, port) = (url.host_str()?.to_owned(), url.port_or_known_default()?);
        Some(Self { org_id, is_tls: url.scheme() == "https", host, port, certificate: None })
    }
}

/// Cloning shares the connections.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Idle<Connection>>>);

impl Pool {
    /// The connection that was used last.
    pub(crate) fn take(&self, origin: &Origin) -> Option<Connection> {
        self.lock().take(origin, Instant::now(), Connection::is_ready)
    }

    /// Keeps a connection whose answer was read to its end.
    pub(crate) fn put(&self, origin: Origin, mut connection: Connection) {
        if connection.is_ready() {
            return self.keep(origin, connection);
        }
        let pool = self.clone();
        tokio::spawn(async move {
            if let Ok(true) = tokio::time::timeout(SETTLE_TIMEOUT, connection.ready()).await {
                pool.keep(origin, connection);
            }
        });
    }

    fn keep(&self, origin: Origin, connection: Connection) {
        let mut idle = self.lock();
        idle.put(origin, connection, Instant::now());
        if !std::mem::replace(&mut idle.is_swept, true) {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Closes connections that were idle for too long, until none is left.
    async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            let mut idle = self.lock();
            idle.drop_expired(Instant::now(), Connection::is_ready);
            if idle.count == 0 {
                idle.is_swept = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Idle connections with their bounds. Takes the time; pure but for dropping connections.
struct Idle<C> {
    /// Each with the time since when it is idle, the oldest first. No queue is empty.
    by_origin: HashMap<Origin, VecDeque<(Instant, C)>>,
    by_organization: HashMap<OrgId, usize>,
    count: usize,
    /// A task closes expired connections.
    is_swept: bool,
}

impl<C> Default for Idle<C> {
    fn default() -> Self {
        Self { by_origin: HashMap::new(), by_organization: HashMap::new(), count: 0, is_swept: false }
    }
}

impl<C> Idle<C> {
    fn take(&mut self, origin: &Origin, now: Instant, is_ready: impl Fn(&C) -> bool) -> Option<C> {
        let queue = self.by_origin.get_mut(origin)?;
        let before = queue.len();
        let mut found = None;
        while let Some((since, connection)) = queue.pop_back() {
            if !is_expired(since, now) && is_ready(&connection) {
                found = Some(connection);
                break;
            }
        }
        let (taken, is_empty) = (before - queue.len(), queue.is_empty());
        if is_empty {
            self.by_origin.remove(origin);
        }
        self.uncount(origin.org_id, taken);
        found
    }

    /// A connection beyond a bound is closed: the oldest of the origin, or this one.
    fn put(&mut self, origin: Origin, connection: C, now: Instant) {
        let org_id = origin.org_id;
        let in_organization = self.by_organization.get(&org_id).copied().unwrap_or_default();
        let queue_length = self.by_origin.get(&origin).map_or(0, VecDeque::len);
        let is_full = self.count >= MAX_IDLE || in_organization >= MAX_IDLE_PER_ORGANIZATION;
        if queue_length == 0 && is_full {
            return;
        }
        let queue = self.by_origin.entry(origin).or_default();
        queue.push_back((now, connection));
        if is_full || queue_length >= MAX_IDLE_PER_ORIGIN {
            queue.pop_front();
        } else {
            self.count += 1;
            *self.by_organization.entry(org_id).or_default() += 1;
        }
    }

    fn drop_expired(&mut self, now: Instant, is_ready: impl Fn(&C) -> bool) {
        let mut dropped = Vec::new();
        self.by_origin.retain(|origin, queue| {
            let before = queue.len();
            queue.retain(|(since, connection)| !is_expired(*since, now) && is_ready(connection));
            dropped.push((origin.org_id, before - queue.len()));
            !queue.is_empty()
        });
        for (org_id, count) in dropped {
            self.uncount(org_id, count);
        }
    }

    fn uncount(&mut self, org_id: OrgId, taken: usize) {
        self.count -= taken;
        if let Some(count) = self.by_organization.get_mut(&org_id) {
            *count -= taken;
            if *count == 0 {
                self.by_organization.remove(&org_id);
            }
        }
    }
}

fn is_expired(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= IDLE_TIMEOUT
}

#[cfg(test)]
mod tests {
    use schemas::ids::EndpointId;

    use super::*;
    use crate::attempt::client_certificate::tests::self_signed;

    fn origin(org_id: OrgId, host: &str) -> Origin {
        Origin { org_id, is_tls: true, host: host.to_owned(), port: 443, certificate: None }
    }

    #[test]
    fn connections_are_taken_newest_first_and_not_shared() {
        let (mut idle, now) = (Idle::default(), Instant::now());
        let (a, b) = (origin(OrgId::generate(), "x"), origin(OrgId::generate(), "x"));
        idle.put(a.clone(), 1, now);
        idle.put(a.clone(), 2, now);
        assert_eq!(idle.take(&b, now, |_| true), None, "another organization");
        assert_eq!(idle.take(&a, now, |_| true), Some(2));
        assert_eq!(idle.take(&a, now + IDLE_TIMEOUT, |_| true), None, "idle for too long");
        idle.put(a.clone(), 3, now);
        assert_eq!(idle.take(&a, now, |_| false), None, "closed");
        assert!(idle.count == 0 && idle.by_origin.is_empty() && idle.by_organization.is_empty());
    }

    #[test]
    fn a_connection_with_a_certificate_is_of_its_endpoint() {
        let (mut idle, now) = (Idle::default(), Instant::now());
        let plain = origin(OrgId::generate(), "x");
        let (certificate, key) = self_signed(2100);
        let with = || {
            let certificate = ClientCertificate::load(EndpointId::generate(), &certificate, &key).unwrap();
            Origin { certificate: Some(certificate), ..plain.clone() }
        };
        let (one, two) = (with(), with());
        idle.put(one.clone(), 1, now);
        assert_eq!(idle.take(&plain, now, |_| true), None, "of an endpoint without a certificate");
        assert_eq!(idle.take(&two, now, |_| true), None, "of another endpoint with the same certificate");
        assert_eq!(idle.take(&one.clone(), now, |_| true), Some(1));
    }

    #[test]
    fn idle_connections_are_bounded() {
        let (mut idle, now) = (Idle::default(), Instant::now());
        let org_id = OrgId::generate();
        for n in 0..1000 {
            idle.put(origin(org_id, "x"), n, now);
        }
        assert_eq!(idle.count, MAX_IDLE_PER_ORIGIN);
        assert_eq!(idle.take(&origin(org_id, "x"), now, |_| true), Some(999), "the newest is kept");
        for n in 0..2000 {
            idle.put(origin(org_id, &format!("host-{n}")), n, now);
        }
        assert_eq!(idle.count, MAX_IDLE_PER_ORGANIZATION);
        for n in 0..10_000 {
            idle.put(origin(OrgId::generate(), "x"), n, now);
        }
        assert_eq!(idle.count, MAX_IDLE);
        idle.drop_expired(now + IDLE_TIMEOUT, |_| true);
        assert!(idle.count == 0 && idle.by_origin.is_empty() && idle.by_organization.is_empty());
    }
}
