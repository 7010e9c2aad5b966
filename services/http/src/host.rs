//! Which `Host` a server on loopback answers to: a page on another site that had its own name resolve to 127.0.0.1 must
//! get nothing.

use axum::extract::Request;
use http::header;

/// Whether every name that the request gives for this server is one of this machine's.
pub(super) fn is_local(request: &Request) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter().peekable();
    let named = hosts.peek().is_some() || request.uri().authority().is_some();
    named
        && hosts.all(|host| host.to_str().is_ok_and(is_local_authority))
        && request.uri().authority().is_none_or(|authority| is_local_authority(authority.as_str()))
}

fn is_local_authority(authority: &str) -> bool {
    let (host, port) = match authority.rfind(':') {
        // The colons of `[::1]` stand before its bracket.
        Some(at) if !authority[at..].contains(']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, ""),
    };
    let known = host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]";
    known && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in ["localhost", "LocalHost:80", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:1", "localhost:"] {
            assert!(is_local_authority(local), "{local}");
        }
        for foreign in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "localhost:x",
            "user@localhost",
            "::1",
            "[::1",
            "127.0.0.2",
            "localhost:1:2",
        ] {
            assert!(!is_local_authority(foreign), "{foreign}");
        }
    }
}
