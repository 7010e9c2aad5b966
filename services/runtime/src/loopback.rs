//! Whether a host name or address is this machine.

use std::net::IpAddr;

/// `localhost`, or a loopback address with or without the brackets of a URL. No name is looked up.
pub fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "localhost.example.com", "127.0.0.1.example.com", "0.0.0.0", "10.0.0.1", "[::]", "127.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
