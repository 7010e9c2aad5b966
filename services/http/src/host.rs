//! Which `Host` headers a server accepts. This prevents DNS rebinding: a web page whose host name resolves to this
//! machine gets no response.

use std::sync::Arc;

use axum::extract::Request;
use http::header;

/// Names that the server has for its clients, without ports. A server on loopback has the local ones, too.
#[derive(Debug, Clone, Default)]
pub struct AllowedHosts(Arc<[String]>);

impl AllowedHosts {
    /// Comma-separated names or addresses, such as `api.example.com`. Without any, a server on loopback accepts local
    /// names only, and another server accepts all.
    ///
    /// # Errors
    /// Names the one that is no host name.
    pub fn parse(list: &str) -> Result<Self, String> {
        let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
        let is_name = |name: &str| {
            let inner = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            inner.chars().all(|c| allowed(c) || (inner != name && c == ':'))
        };
        let checked = names.map(|name| {
            if is_name(name) {
                Ok(name.to_ascii_lowercase())
            } else {
                Err(format!("{name} is no host name; leave ports out"))
            }
        });
        checked.collect::<Result<Vec<_>, _>>().map(|names| Self(names.into()))
    }

    /// Whether every `Host` header and the URI's authority are names of this server, and there is at least one of them.
    pub(super) fn admits(&self, request: &Request, on_loopback: bool) -> bool {
        if self.0.is_empty() && !on_loopback {
            return true;
        }
        let is_known =
            |authority: &str| host_of(authority).is_some_and(|host| (on_loopback && is_local(host)) || self.has(host));
        let mut hosts = request.headers().get_all(header::HOST).iter().peekable();
        let named = hosts.peek().is_some() || request.uri().authority().is_some();
        named
            && hosts.all(|host| host.to_str().is_ok_and(is_known))
            && request.uri().authority().is_none_or(|authority| is_known(authority.as_str()))
    }

    fn has(&self, host: &str) -> bool {
        self.0.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]"
}

/// The host of an authority, if what follows it is a port.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.rfind(':') {
        // The colons of `[::1]` are inside its brackets.
        Some(at) if !authority[at..].contains(']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, ""),
    };
    port.bytes().all(|byte| byte.is_ascii_digit()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_local_authority(authority: &str) -> bool {
        host_of(authority).is_some_and(is_local)
    }

    fn request(host: &str) -> Request {
        Request::builder().uri("/").header("host", host).body(axum::body::Body::empty()).unwrap()
    }

    #[test]
    fn configured_names_are_accepted_beside_local_ones() {
        let hosts = AllowedHosts::parse("api.example.com, [2001:db8::1]").unwrap();
        for (host, on_loopback, elsewhere) in [
            ("API.example.com:8080", true, true),
            ("[2001:db8::1]:80", true, true),
            ("localhost", true, false),
            ("example.com", false, false),
            ("api.example.com.evil.example", false, false),
        ] {
            assert_eq!(hosts.admits(&request(host), true), on_loopback, "{host} on loopback");
            assert_eq!(hosts.admits(&request(host), false), elsewhere, "{host} elsewhere");
        }
        let none = AllowedHosts::default();
        assert!(none.admits(&request("anything.example"), false) && !none.admits(&request("anything.example"), true));
        for bad in ["api.example.com:80", "http://a", "a b", "*"] {
            assert!(AllowedHosts::parse(bad).is_err(), "{bad}");
        }
    }

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
