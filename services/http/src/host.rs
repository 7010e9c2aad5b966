//! Which `Host` headers a server on loopback accepts. This prevents DNS rebinding: a web page whose host name resolves
//! to 127.0.0.1 gets no response.

use axum::extract::Request;
use http::header;

/// Whether every `Host` header and the URI's authority name this machine, and there is at least one of them.
pub(super) fn has_local_host(request: &Request) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter().peekable();
    let named = hosts.peek().is_some() || request.uri().authority().is_some();
    named
        && hosts.all(|host| host.to_str().is_ok_and(is_local_authority))
        && request.uri().authority().is_none_or(|authority| is_local_authority(authority.as_str()))
}

fn is_local_authority(authority: &str) -> bool {
    let (host, port) = match authority.rfind(':') {
        // The colons of `[::1]` are inside its brackets.
        Some(at) if !authority[at..].contains(']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, ""),
    };
    let is_local = host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]";
    is_local && port.bytes().all(|byte| byte.is_ascii_digit())
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
