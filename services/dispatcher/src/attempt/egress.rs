//! What a webhook may reach: scheme, host, address and port. Checked when an endpoint is written, and before each
//! request: the host first, then each address that was found for it. Pure.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemas::ids::OrgId;
use url::Url;

/// Longest URL of an endpoint, bytes.
const MAX_URL_BYTES: usize = 2048;

/// IPv4 ranges that are not the public Internet, from IANA's special-purpose registry, and one public address that a
/// cloud uses for an internal service.
const REFUSED_V4: &[Ipv4Net] = &[
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([168, 63, 129, 16], 32),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 31, 196, 0], 24),
    v4([192, 52, 193, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([192, 175, 48, 0], 24),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
];

/// The only public IPv6 range. It excludes loopback, unspecified, mapped and compatible IPv4, NAT64, unique local,
/// link-local, multicast and segment routing.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Ranges within it that are not public: protocol assignments with Teredo, benchmark and overlay ids, documentation,
/// 6to4, sinks.
const REFUSED_V6: &[Ipv6Net] = &[
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    v6([0x2620, 0x004f, 0x8000, 0, 0, 0, 0, 0], 48),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    /// On the public Internet.
    Public,
    /// Not public, but allowed by the operator. Its responses are not stored: they may be confidential.
    Listed,
    Refused,
}

/// Why an endpoint cannot have a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    #[error("must be an absolute http or https URL")]
    Malformed,
    /// Two readers could read it differently, so it is refused rather than repaired.
    #[error(
        "must have a plain host name or address after //, without other forms of its characters, and no backslash, \
         blank or control character"
    )]
    Ambiguous,
    #[error("must be at most {MAX_URL_BYTES} bytes long")]
    TooLong,
    #[error("must start with https:// or http://")]
    Scheme,
    /// A name or password in the URL.
    #[error("must not carry a user name or password")]
    UserInfo,
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// Why a request is not sent. Nothing of it reaches the network but the look-up of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("plain http is not allowed here: the URL must start with https://")]
    PlainHttp,
    #[error("the host is not allowed here")]
    Host,
    #[error("the address is private, local or reserved and not allowed")]
    Address,
    #[error("the port is not allowed here")]
    Port,
}

/// Ports of well-known services that receive no webhooks: SQL Server, Oracle, NFS, ZooKeeper, Docker and etcd, MySQL,
/// RDP, PostgreSQL, CouchDB, X11, Redis, Kafka, Elasticsearch, nodes of Kubernetes, memcached, MongoDB.
pub(crate) const DENIED_PORTS: &str =
    "1433,1521,2049,2181,2375-2380,3306,3389,5432,5984,6000-6063,6379,9092,9200,9300,10250,10255,11211,27017-27019";

/// Everything that the operator decides. The default reaches public addresses by https.
#[derive(Debug, Clone)]
pub struct EgressPolicy {
    /// Networks that are not public and that every organization may reach.
    pub allowed_networks: Vec<IpNet>,
    /// Networks that are not public and that one organization may reach.
    pub organization_networks: Vec<(OrgId, IpNet)>,
    /// Networks that nobody reaches, whatever else is allowed.
    pub denied_networks: Vec<IpNet>,
    /// Host names that nobody reaches, in lower case and Punycode; `*.` at the start is for all names below.
    pub denied_hosts: Vec<String>,
    /// Ports from 1024 on that nobody reaches outside of allowed networks.
    pub denied_ports: Vec<RangeInclusive<u16>>,
    pub allow_http: bool,
}

impl Default for EgressPolicy {
    fn default() -> Self {
        Self {
            allowed_networks: Vec::new(),
            organization_networks: Vec::new(),
            denied_networks: Vec::new(),
            denied_hosts: Vec::new(),
            denied_ports: DENIED_PORTS.split(',').filter_map(port_range).collect(),
            allow_http: false,
        }
    }
}

/// `None`: the text is neither a port nor a range such as `6000-6063`.
pub(crate) fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

impl EgressPolicy {
    /// The policy for an organization: its own networks are among the allowed ones.
    pub fn of(&self, org_id: OrgId) -> Cow<'_, Self> {
        let mut own = self.organization_networks.iter().filter(|(of, _)| *of == org_id).peekable();
        if own.peek().is_none() {
            return Cow::Borrowed(self);
        }
        let mut policy = self.clone();
        policy.allowed_networks.extend(own.map(|(_, network)| network));
        Cow::Owned(policy)
    }

    pub fn classify(&self, address: IpAddr) -> AddressClass {
        // A mapped address connects to the IPv4 address, so it is listed if that is.
        let canonical = address.to_canonical();
        let is_in = |network: &IpNet| network.contains(&address) || network.contains(&canonical);
        if self.denied_networks.iter().any(is_in) {
            AddressClass::Refused
        } else if is_public(address) {
            AddressClass::Public
        } else if self.allowed_networks.iter().any(is_in) {
            AddressClass::Listed
        } else {
            AddressClass::Refused
        }
    }

    /// Whether a request may go to this address and port.
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn check_address(&self, address: IpAddr, port: u16) -> Result<AddressClass, Refusal> {
        match self.classify(address) {
            AddressClass::Refused => Err(Refusal::Address),
            AddressClass::Public if !self.is_public_port(port) => Err(Refusal::Port),
            class => Ok(class),
        }
    }

    /// What is known of a URL before its host is looked up. An endpoint may have been stored when other rules held.
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn check_host(&self, url: &Url) -> Result<(), Refusal> {
        if url.scheme() != "https" && !(url.scheme() == "http" && self.allow_http) {
            return Err(Refusal::PlainHttp);
        }
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        if let Some(address) = literal(host) {
            return self.check_address(address, port).map(drop);
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        if self.denied_hosts.iter().any(|denied| is_denied(name, denied)) {
            return Err(Refusal::Host);
        }
        // Reserved names for loopback are refused early, so that the client sees the error.
        let is_loopback = name == "localhost" || name.ends_with(".localhost");
        if is_loopback && self.classify(IpAddr::V4(Ipv4Addr::LOCALHOST)) == AddressClass::Refused {
            return Err(Refusal::Address);
        }
        // The name may lead into an allowed network, where every port is allowed.
        if self.allowed_networks.is_empty() && !self.is_public_port(port) {
            return Err(Refusal::Port);
        }
        Ok(())
    }

    fn is_public_port(&self, port: u16) -> bool {
        matches!(port, 80 | 443) || (port >= 1024 && !self.denied_ports.iter().any(|range| range.contains(&port)))
    }

    /// Parses the URL of an endpoint. A literal address is checked here, a name when it is resolved. A fragment, which
    /// is never sent, is removed.
    ///
    /// # Errors
    /// The rule that the URL breaks.
    pub fn check_url(&self, text: &str) -> Result<Url, UrlProblem> {
        if text.len() > MAX_URL_BYTES {
            return Err(UrlProblem::TooLong);
        }
        let mut url = Url::parse(text).map_err(|_| UrlProblem::Malformed)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(UrlProblem::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlProblem::UserInfo);
        }
        self.check_host(&url)?;
        if !is_unambiguous(text, &url) {
            return Err(UrlProblem::Ambiguous);
        }
        url.set_fragment(None);
        Ok(url)
    }
}

/// The address that a host of a URL is, if it is no name. The URL parser has normalized decimal, octal, hexadecimal and
/// shortened IPv4 addresses.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// Whether an entry of the denied hosts is this name, or `*.` and a name above it.
fn is_denied(name: &str, denied: &str) -> bool {
    match denied.strip_prefix('*') {
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        None => name == denied,
    }
}

/// Whether the parser has repaired nothing. It removes blanks, control characters and an empty user name, reads a
/// backslash as a slash, and finds a host after any number of slashes. In a host it reads `0x7f.1` and full-width
/// digits as an IPv4 address, decodes `%2e`, and removes soft hyphens.
fn is_unambiguous(text: &str, url: &Url) -> bool {
    let is_repaired = |c: char| c == '\\' || c.is_whitespace() || c.is_control();
    let after_scheme = text.split_once(':').and_then(|(_, rest)| rest.strip_prefix("//"));
    let authority = after_scheme.and_then(|rest| rest.split(['/', '?', '#']).next());
    let (Some(authority), Some(read)) = (authority, url.host_str()) else { return false };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    // An IPv6 address has many forms that all readers read alike.
    let is_as_written = (host.starts_with('[') && read.starts_with('['))
        || (host.split('.').count() == read.split('.').count()
            && host.split('.').zip(read.split('.')).all(|(written, read)| is_label_as_written(written, read)));
    !text.contains(is_repaired) && is_as_written
}

/// Whether a part of a host name was read as it is written, but for upper case. One that is not ASCII must have become
/// Punycode: without it, the parser has replaced characters that only look like ASCII.
fn is_label_as_written(written: &str, read: &str) -> bool {
    if written.is_ascii() {
        return written.eq_ignore_ascii_case(read);
    }
    read.starts_with("xn--") && written.chars().all(|c| c.is_alphanumeric() || c == '-')
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !REFUSED_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address) && !REFUSED_V6.iter().any(|network| network.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests;
