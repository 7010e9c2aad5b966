//! The HTTP client of our own programs: the command line, `doctor`, and the load tests. Webhooks have their own client,
//! in `dispatcher`.

use reqwest::{ClientBuilder, Url, redirect};

use crate::loopback;

/// A client of the system at `base_url`. It follows no redirect, which could take a body to another host. It asks no
/// proxy of the environment for this machine: the proxy would get the API key, and could not reach the system.
pub fn builder(base_url: &str) -> ClientBuilder {
    let builder = reqwest::Client::builder().redirect(redirect::Policy::none());
    if host_of(base_url).is_some_and(|host| loopback::is_loopback(&host)) { builder.no_proxy() } else { builder }
}

/// A warning if keys and tokens would go through the network in plain text.
pub fn plain_text_warning(base_url: &str) -> Option<String> {
    let host = host_of(base_url).filter(|host| !loopback::is_loopback(host))?;
    let is_plain = base_url.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
    is_plain.then(|| format!("the API key or token goes to {host} in plain text; use an https:// URL"))
}

fn host_of(base_url: &str) -> Option<String> {
    Url::parse(base_url).ok()?.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_to_another_host_is_warned_of() {
        for quiet in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:8080", "https://triggers.example.com"]
        {
            assert_eq!(plain_text_warning(quiet), None, "{quiet}");
        }
        for warned in ["http://triggers.example.com", "HTTP://10.0.0.1:8080/v1"] {
            assert!(plain_text_warning(warned).is_some(), "{warned}");
        }
    }
}
