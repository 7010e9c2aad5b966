//! The address of a client behind proxies: only a proxy that the configuration lists is believed, and only about the
//! hop before it. Pure.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// The header in which the proxies name the client. Only one is read: a client may send the other one itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: CLIENT, PROXY, …`
    #[default]
    XForwardedFor,
    /// RFC 7239: `Forwarded: for=CLIENT, for=PROXY, …`
    Forwarded,
}

impl FromStr for ForwardedHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            _ => Err("must be x-forwarded-for or forwarded".to_owned()),
        }
    }
}

/// Proxies whose header is believed. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    networks: Arc<[IpNet]>,
    header: ForwardedHeader,
}

impl TrustedProxies {
    /// `networks`: addresses and networks (`10.0.0.0/8`), separated by commas.
    ///
    /// # Errors
    /// The part that is no address or network.
    pub fn parse(networks: &str, header: ForwardedHeader) -> Result<Self, String> {
        let parts = networks.split(',').map(str::trim).filter(|part| !part.is_empty());
        let parse = |part: &str| {
            let network = part.parse::<IpNet>().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| format!("`{part}` is neither an address nor a network such as 10.0.0.0/8"))
        };
        let networks = parts.map(parse).collect::<Result<Vec<IpNet>, String>>()?;
        Ok(Self { networks: Arc::from(networks), header })
    }

    /// Whether this peer is a listed proxy.
    pub fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(&peer))
    }

    /// The client of a request from `peer`: the right-most hop that is no listed proxy. What cannot be read ends the
    /// search: the proxy that wrote it is then the client.
    pub(super) fn client_of(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.contains(client) {
            return client;
        }
        let name = match self.header {
            ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ForwardedHeader::Forwarded => http::header::FORWARDED,
        };
        let lines: Vec<&str> = headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect();
        for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            let Some(address) = self.address_in(hop.trim()) else { return client };
            client = address;
            if !self.contains(client) {
                return client;
            }
        }
        client
    }

    fn address_in(&self, hop: &str) -> Option<IpAddr> {
        match self.header {
            ForwardedHeader::XForwardedFor => parse_hop(hop),
            ForwardedHeader::Forwarded => {
                let mut pairs = hop.split(';').filter_map(|pair| pair.trim().split_once('='));
                let (_, value) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
                parse_hop(value.trim_matches('"'))
            }
        }
    }
}

/// An address, with or without a port; IPv6 with or without brackets.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|hop| hop.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    address.or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(proxies: &str, header: ForwardedHeader, peer: &str, lines: &[&'static str]) -> String {
        let name = if header == ForwardedHeader::Forwarded { "forwarded" } else { "x-forwarded-for" };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_static(line));
        }
        TrustedProxies::parse(proxies, header).unwrap().client_of(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_peer_that_is_not_listed_is_not_believed() {
        let client = |peer| client("10.0.0.0/8", ForwardedHeader::XForwardedFor, peer, &["203.0.113.9"]);
        assert_eq!(client("198.51.100.1"), "198.51.100.1");
        assert_eq!(client("10.1.2.3"), "203.0.113.9");
        assert_eq!(client("::ffff:10.1.2.3"), "203.0.113.9");
    }

    #[test]
    fn the_right_most_hop_that_is_not_listed_is_the_client() {
        let client = |lines| client("10.0.0.0/8, 192.0.2.1", ForwardedHeader::XForwardedFor, "10.0.0.1", lines);
        assert_eq!(client(&["1.1.1.1, 203.0.113.9, 192.0.2.1, 10.2.2.2"]), "203.0.113.9", "1.1.1.1 is a claim");
        assert_eq!(client(&["1.1.1.1", "203.0.113.9:4711, 10.2.2.2"]), "203.0.113.9", "lines are one list");
        assert_eq!(client(&["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(client(&["2001:db8::1, unknown, 10.2.2.2"]), "10.2.2.2", "what is unreadable ends the search");
        assert_eq!(client(&["10.3.3.3, 10.2.2.2"]), "10.3.3.3", "all are proxies: the first one is the client");
        assert_eq!(client(&[]), "10.0.0.1");
    }

    #[test]
    fn the_standard_header_is_read_when_configured() {
        let client = |lines| client("10.0.0.1", ForwardedHeader::Forwarded, "10.0.0.1", lines);
        assert_eq!(client(&["for=203.0.113.9;proto=https"]), "203.0.113.9");
        assert_eq!(client(&["by=x; For=\"[2001:db8::1]:4711\""]), "2001:db8::1");
        assert_eq!(client(&["for=_hidden"]), "10.0.0.1");
    }

    #[test]
    fn a_wrong_list_names_its_part() {
        let error = TrustedProxies::parse("10.0.0.1, example.com", ForwardedHeader::default()).unwrap_err();
        assert!(error.contains("`example.com`"), "{error}");
        assert!(!TrustedProxies::default().contains("127.0.0.1".parse().unwrap()));
    }
}
