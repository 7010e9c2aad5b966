//! HTTP client for a running system: finds its URL and credentials, sends requests, and turns error responses into
//! error messages.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::header::LOCATION;
use reqwest::{Method, RequestBuilder, StatusCode};
use runtime::config::secret;
use runtime::http_client;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::local_system::LocalSystemArgs;
use crate::up::files::DevJson;

const TIMEOUT: Duration = Duration::from_secs(45);

/// URL and credentials of the system.
#[derive(Args, Clone)]
pub(crate) struct TargetArgs {
    /// Base URL; default: that of the system that `triggers up` runs here
    #[arg(long, env = "TRIGGERS_URL", global = true)]
    url: Option<String>,
    /// API key; default: that of the system that `triggers up` runs here
    #[arg(long, env = "TRIGGERS_API_KEY", hide_env_values = true, global = true, value_parser = secret)]
    key: Option<String>,
    /// Token for operator commands; default: that of the system that `triggers up` runs here
    #[arg(long, env = "OPERATOR_TOKEN", hide_env_values = true, global = true, value_parser = secret)]
    operator_token: Option<String>,
    #[command(flatten)]
    local: LocalSystemArgs,
}

/// The secret that authorizes a request.
#[derive(Clone, Copy)]
pub(crate) enum Credential {
    ApiKey,
    OperatorToken,
}

/// A client of one system.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base_url: String,
    key: Option<String>,
    operator_token: Option<String>,
}

/// A response with an error status. Its text is the problem's `detail`.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct ErrorResponse {
    pub status: StatusCode,
    text: String,
}

/// The fields of a problem document that an error message needs.
#[derive(Deserialize)]
struct ProblemFields {
    detail: String,
    #[serde(default)]
    request_id: String,
}

impl TargetArgs {
    /// The `dev.json` of `triggers up`, if it runs here.
    pub(crate) fn dev_json(&self) -> Result<DevJson> {
        self.local.dev_json()
    }

    /// A client of the system that options or variables name; else of the system that `triggers up` runs here.
    pub(crate) fn client(&self) -> Result<Client> {
        let dev = self.dev_json();
        let base_url = match (&self.url, &dev) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Ok(dev)) => dev.base_url.clone(),
            (None, Err(error)) => {
                bail!(
                    "no system: neither --url nor TRIGGERS_URL is set, and no local system runs here ({error:#}); \
                     start one with: triggers up"
                )
            }
        };
        // The credentials of the local system are not sent to another one.
        let local = dev.ok().filter(|dev| dev.base_url == base_url);
        let key = self.key.clone().or_else(|| local.as_ref().map(|dev| dev.api_key.clone()));
        let operator_token = self.operator_token.clone().or_else(|| local.map(|dev| dev.operator_token));
        if let Some(warning) =
            http_client::plain_text_warning(&base_url).filter(|_| key.is_some() || operator_token.is_some())
        {
            eprintln!("triggers: warning: {warning}");
        }
        let http = http_client::builder(&base_url).timeout(TIMEOUT).build().context("cannot create the HTTP client")?;
        Ok(Client { http, base_url, key, operator_token })
    }
}

impl Client {
    /// A request to `path` (starts with `/`).
    pub(crate) fn request(&self, credential: Credential, method: Method, path: &str) -> Result<RequestBuilder> {
        let secret = match credential {
            Credential::ApiKey => self.key.as_ref().context("no API key: give --key or set TRIGGERS_API_KEY")?,
            Credential::OperatorToken => self
                .operator_token
                .as_ref()
                .context("no operator token: give --operator-token or set OPERATOR_TOKEN")?,
        };
        Ok(self.http.request(method, format!("{}{path}", self.base_url)).bearer_auth(secret))
    }

    /// Sends the request and decodes the response body; an error status becomes [`ErrorResponse`].
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let (status, body) = self.send(request).await?;
        serde_json::from_slice(&body).with_context(|| format!("cannot decode the response (HTTP {})", status.as_u16()))
    }

    /// Sends the request and ignores the response body; an error status becomes [`ErrorResponse`].
    pub(crate) async fn execute(&self, request: RequestBuilder) -> Result<StatusCode> {
        Ok(self.send(request).await?.0)
    }

    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>)> {
        let response = request.send().await.map_err(|error| {
            let hint = if error.is_connect() { "; is it running?" } else { "" };
            anyhow::anyhow!("{} did not answer: {}{hint}", self.base_url, error.without_url())
        })?;
        let status = response.status();
        if let Some(location) = response.headers().get(LOCATION).filter(|_| status.is_redirection()) {
            let text = format!(
                "HTTP {}: the server redirects to {}; redirects are not followed, give the URL of the system itself",
                status.as_u16(),
                location.to_str().unwrap_or("another URL").escape_default()
            );
            return Err(ErrorResponse { status, text }.into());
        }
        let body = response.bytes().await.context("the connection broke during the response")?.to_vec();
        if status.is_success() {
            return Ok((status, body));
        }
        match serde_json::from_slice::<ProblemFields>(&body) {
            Ok(problem) => {
                let text = format!("{} (HTTP {}, request {})", problem.detail, status.as_u16(), problem.request_id);
                Err(ErrorResponse { status, text }.into())
            }
            Err(_) => Err(ErrorResponse { status, text: format!("HTTP {}", status.as_u16()) }.into()),
        }
    }
}
