//! Which addresses a webhook may reach. Checked when an endpoint is written, after DNS, and on literal addresses before
//! each request. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
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
    #[error("must start with https://: plain http is not allowed here")]
    PlainHttp,
    /// A name or password in the URL.
    #[error("must not carry a user name or password")]
    UserInfo,
    /// A literal address, or a name for loopback.
    #[error("the address is private, local or reserved and not allowed here")]
    Refused,
}

#[derive(Debug, Clone, Default)]
pub struct EgressPolicy {
    /// Networks that are not public and may be reached.
    pub allowed_networks: Vec<IpNet>,
    pub allow_http: bool,
}

impl EgressPolicy {
    pub fn classify(&self, address: IpAddr) -> AddressClass {
        if is_public(address) {
            return AddressClass::Public;
        }
        // A mapped address connects to the IPv4 address, so it is listed if that is.
        let canonical = address.to_canonical();
        let listed =
            self.allowed_networks.iter().any(|network| network.contains(&address) || network.contains(&canonical));
        if listed { AddressClass::Listed } else { AddressClass::Refused }
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
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => return Err(UrlProblem::PlainHttp),
            _ => return Err(UrlProblem::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlProblem::UserInfo);
        }
        if self.check_literal(&url) == Some(AddressClass::Refused) {
            return Err(UrlProblem::Refused);
        }
        if !is_unambiguous(text, &url) {
            return Err(UrlProblem::Ambiguous);
        }
        url.set_fragment(None);
        Ok(url)
    }

    /// The class of a host that needs no DNS; `None` for a name. The URL parser has normalized decimal, octal,
    /// hexadecimal and shortened IPv4 addresses.
    pub fn check_literal(&self, url: &Url) -> Option<AddressClass> {
        let host = url.host_str()?;
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = literal.parse::<IpAddr>() {
            return Some(self.classify(address));
        }
        // Reserved names for loopback are refused early, so that the client sees the error.
        let name = host.strip_suffix('.').unwrap_or(host);
        let loopback = name == "localhost" || name.ends_with(".localhost");
        (loopback && self.classify(IpAddr::V4(Ipv4Addr::LOCALHOST)) == AddressClass::Refused)
            .then_some(AddressClass::Refused)
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
