//! The client and its settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Url, redirect};

use crate::error::Error;
use crate::retry::RetryPolicy;
use crate::settings::{self, Environment};
use crate::transport::Transport;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// Shorter than a server or a load balancer keeps an idle connection: a request on a connection that is being closed
/// fails.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
const USER_AGENT: &str = concat!("triggers-client-rust/", env!("CARGO_PKG_VERSION"));

/// A client of one system, with the key of one organization. A clone shares its connections.
///
/// ```no_run
/// use std::time::Duration;
/// use triggers_client::{Client, Event};
///
/// # async fn example(key: String) -> Result<(), triggers_client::Error> {
/// let client = Client::builder()
///     .url("https://triggers.example.com")
///     .key(key)
///     .retry_budget(Duration::from_secs(30))
///     .build()?;
/// let accepted = client.send(&Event::new("order.created", &serde_json::json!({"id": 7}))?).await?;
/// println!("{}", accepted.event_id);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
}

/// Shows the URL, and not the key.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.transport.base_url.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// The settings of a client. Needed are [`url`](ClientBuilder::url) and [`key`](ClientBuilder::key).
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder { url: None, key: None, retry: RetryPolicy::default(), attempt_timeout: ATTEMPT_TIMEOUT }
    }

    /// A client of the system that the environment names: by `TRIGGERS_URL` and `TRIGGERS_API_KEY`, else by the
    /// `dev.json` that `triggers up` writes into its data folder (`TRIGGERS_DATA_DIR`, by default `.triggers`).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), triggers_client::Error> {
    /// let client = triggers_client::Client::from_env()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`]: no system or no key is named, or the file cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        let (url, key) = Environment::read()?.target()?;
        Self::builder().url(url).key(key).build()
    }
}

/// Settings of a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    url: Option<String>,
    key: Option<String>,
    retry: RetryPolicy,
    attempt_timeout: Duration,
}

/// Does not show the key.
impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("url", &self.url).field("retry", &self.retry).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// The base URL, such as `https://triggers.example.com`. With `http://`, the key goes through the network in plain
    /// text: use that only on your own machine or network.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// The API key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// How long a call goes on after failures that a retry can help with: no attempt starts later than this after the
    /// first one. Zero: no retries. Default: 90 s, which is more than the window of a rate limit.
    #[must_use]
    pub const fn retry_budget(mut self, budget: Duration) -> Self {
        self.retry.budget = budget;
        self
    }

    /// How long one attempt may take; a long poll may take its wait in addition. Default: 15 s.
    #[must_use]
    pub const fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// The client. It opens no connection yet. If the process has no default cryptography provider of `rustls`, this
    /// installs `ring`.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the URL or the key is missing or invalid, or the time-out is zero.
    pub fn build(self) -> Result<Client, Error> {
        let missing = |name: &str| Error::Invalid(format!("the {name} is missing"));
        let base_url = settings::base_url(&self.url.ok_or_else(|| missing("URL"))?)?;
        let authorization = settings::authorization(&self.key.ok_or_else(|| missing("API key"))?)?;
        if self.attempt_timeout.is_zero() {
            return Err(Error::Invalid("the time-out of an attempt must not be zero".to_owned()));
        }
        let http = http_client(&base_url)?;
        let (retry, attempt_timeout) = (self.retry, self.attempt_timeout);
        let transport = Transport { http, base_url, authorization, retry, attempt_timeout };
        Ok(Client { transport: Arc::new(transport) })
    }
}

/// It follows no redirect, which could take a body to another host. It asks no proxy of the environment for this
/// machine: the proxy would get the key, and could not reach the system.
fn http_client(base_url: &Url) -> Result<reqwest::Client, Error> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails if another thread has installed one meanwhile. Then that one is used.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    let builder = reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT);
    let builder = if settings::is_loopback(base_url) { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| Error::Invalid(format!("cannot create the HTTP client: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_debug_output_has_the_key() {
        let builder = Client::builder().url("http://127.0.0.1:8080").key("zap_live_secret");
        let texts = [format!("{builder:?}"), format!("{:?}", builder.build().unwrap())];
        for text in texts {
            assert!(text.contains("127.0.0.1:8080") && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn a_missing_setting_is_named() {
        let error = |builder: ClientBuilder| builder.build().unwrap_err().to_string();
        assert_eq!(error(Client::builder().key("k")), "the URL is missing");
        assert_eq!(error(Client::builder().url("http://localhost")), "the API key is missing");
        let without_time = Client::builder().url("http://localhost").key("k").attempt_timeout(Duration::ZERO);
        assert!(error(without_time).contains("must not be zero"));
    }
}
