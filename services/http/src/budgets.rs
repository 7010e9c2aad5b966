//! The budgets of one HTTP server: open connections per peer, and the bytes of request bodies and of responses that are
//! held in memory, in all and for each organization (for each address, while no key is known).
//!
//! A small body or response of HTTP/1 is not counted: hyper's buffers hold it anyway, and their number is bounded by
//! that of the connections. A connection of HTTP/2 holds an answer for each of its streams, so there all answers are
//! counted.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use bytes::Bytes;
use runtime::budget::{Budget, Exhausted, KeyedShares, Permit, Share};

use super::problem::Problem;
use super::server_limits::ServerLimits;

/// Larger responses are counted, also with HTTP/1.
pub(super) const UNCOUNTED_RESPONSE_BYTES: u64 = 16 * 1024;

/// The budgets of one server. Cloning shares them.
#[derive(Clone)]
pub struct Budgets(Arc<BudgetsState>);

struct BudgetsState {
    bodies: Budget,
    responses: Budget,
    connections_by_peer: KeyedShares<IpAddr>,
    connections: Budget,
    bodies_by_address: KeyedShares<IpAddr>,
    responses_by_address: KeyedShares<IpAddr>,
}

impl Budgets {
    /// The budgets that `limits` gives.
    pub fn new(limits: &ServerLimits) -> Self {
        let of_connections = Budget::new(
            "http_connections",
            limits.max_connections as u64,
            limits.max_connections_per_peer.min(limits.max_connections) as u64,
        );
        let bodies = Budget::new("request_body_bytes", limits.max_body_bytes, limits.max_body_bytes_per_holder);
        let responses = Budget::new("response_bytes", limits.max_response_bytes, limits.max_response_bytes_per_holder);
        // A budget of its own, so that clients without a key never use up that of the organizations.
        let without_key = Budget::new(
            "response_bytes_without_key",
            limits.max_response_bytes_without_key,
            limits.max_response_bytes_per_address,
        );
        Self(Arc::new(BudgetsState {
            connections_by_peer: KeyedShares::new(of_connections.clone()),
            connections: of_connections,
            bodies_by_address: KeyedShares::new(bodies.clone()),
            responses_by_address: KeyedShares::new(without_key),
            bodies,
            responses,
        }))
    }

    /// A holder with shares of its own: an organization.
    pub fn holder(&self) -> Holder {
        Holder::Shares(Arc::new(HolderShares { bodies: self.0.bodies.share(), responses: self.0.responses.share() }))
    }

    /// The holder of a request without a key.
    pub(super) fn holder_at(&self, address: IpAddr) -> Holder {
        Holder::Address(self.clone(), subscriber(address))
    }

    /// Counts a connection of a peer.
    pub(super) fn connect(&self, peer: IpAddr) -> Result<Permit, Exhausted> {
        self.0.connections_by_peer.of(subscriber(peer)).take(1)
    }

    /// Counts a connection of a proxy, which has no bound of its own.
    pub(super) fn connect_proxy(&self) -> Result<Permit, Exhausted> {
        self.0.connections.unbounded_share().take(1)
    }

    /// Whether places for connections run short, so that idle ones should close soon.
    pub(super) fn is_crowded(&self) -> bool {
        self.0.connections.held() > self.0.connections.max_in_all() / 4 * 3
    }
}

/// Who holds the bytes of a request: the organization of its key, or the address it came from.
#[derive(Clone)]
pub enum Holder {
    /// An organization, with its shares.
    Shares(Arc<HolderShares>),
    /// An address. Its shares are looked up only when something is counted.
    Address(Budgets, IpAddr),
}

/// The shares of an organization.
pub struct HolderShares {
    bodies: Share,
    responses: Share,
}

impl Holder {
    /// Takes bytes for a request body.
    ///
    /// # Errors
    /// 429 when this holder has too much, 503 when all together have.
    pub(super) fn take_body(&self, bytes: u64) -> Result<Permit, Problem> {
        let share = match self {
            Self::Shares(shares) => shares.bodies.clone(),
            Self::Address(budgets, address) => budgets.0.bodies_by_address.of(*address),
        };
        share.take(bytes).map_err(body_problem)
    }

    /// Takes bytes for a response, until it is sent.
    ///
    /// # Errors
    /// 429 when this holder has too much, 503 when all together have.
    pub fn take_response(&self, bytes: u64) -> Result<Permit, Problem> {
        self.responses().take(bytes).map_err(response_problem)
    }

    /// What this holder may hold of responses.
    pub(super) fn responses(&self) -> Share {
        match self {
            Self::Shares(shares) => shares.responses.clone(),
            Self::Address(budgets, address) => budgets.0.responses_by_address.of(*address),
        }
    }
}

pub(super) fn body_problem(exhausted: Exhausted) -> Problem {
    refusal(exhausted, "too many bytes of request bodies are open")
}

/// The problem for a response that the budget does not allow.
pub fn response_problem(exhausted: Exhausted) -> Problem {
    refusal(exhausted, "too many bytes of responses are not read yet")
}

/// 429 when the holder has too much, 503 when all together have. `what` begins the text.
pub fn refusal(exhausted: Exhausted, what: &str) -> Problem {
    match exhausted {
        Exhausted::Holder => Problem::too_much_at_once(format!("{what} from this client; finish some first")),
        Exhausted::All => Problem::unavailable(format!("{what}; come again shortly"), 1),
    }
}

/// The address, or for IPv6 its /64: a subscriber can use all addresses of its /64.
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// Bytes that hold a permit until the last copy of them is dropped: hyper drops a response only when it is written.
pub(super) fn held(bytes: Bytes, permit: impl Send + 'static) -> Bytes {
    struct Held<P>(Bytes, P);
    impl<P> AsRef<[u8]> for Held<P> {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Held(bytes, permit))
}
