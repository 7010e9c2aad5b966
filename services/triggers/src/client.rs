//! Talking to a running system as any client would: finding it, sending requests, and turning its problems into
//! sentences.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::local::LocalArgs;
use crate::up::files::DevJson;

const TIMEOUT: Duration = Duration::from_secs(45);

/// Where the system is, and with which key to talk to it.
#[derive(Args, Clone)]
pub(crate) struct TargetArgs {
    /// Base URL; default: what `triggers up` wrote to its data folder
    #[arg(long, env = "TRIGGERS_URL", global = true)]
    url: Option<String>,
    /// API key; default likewise
    #[arg(long, env = "TRIGGERS_API_KEY", hide_env_values = true, global = true)]
    key: Option<String>,
    /// Token for the operator's commands; default likewise
    #[arg(long, env = "OPERATOR_TOKEN", hide_env_values = true, global = true)]
    operator_token: Option<String>,
    #[command(flatten)]
    local: LocalArgs,
}

/// With which of the two secrets a request is made.
#[derive(Clone, Copy)]
pub(crate) enum As {
    Key,
    Operator,
}

/// A client of one system.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base_url: String,
    key: Option<String>,
    operator_token: Option<String>,
}

/// An answer that is no success. Its text is what a person needs of it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refused {
    pub status: StatusCode,
    text: String,
}

/// The part of a problem that a person needs.
#[derive(Deserialize)]
struct Problem {
    detail: String,
    #[serde(default)]
    request_id: String,
}

impl TargetArgs {
    /// What `triggers up` wrote, if it runs here.
    pub(crate) fn dev_json(&self) -> Result<DevJson> {
        self.local.dev_json()
    }

    /// Finds the system: by flag or variable, else by what `triggers up` wrote.
    pub(crate) fn client(&self) -> Result<Client> {
        let dev = self.dev_json();
        let base_url = match (&self.url, &dev) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Ok(dev)) => dev.base_url.clone(),
            (None, Err(error)) => {
                bail!(
                    "no system is named by --url or TRIGGERS_URL, and none runs here ({error:#}); start one with: triggers up"
                )
            }
        };
        // A key of the local system is not sent to another one.
        let local = dev.ok().filter(|dev| dev.base_url == base_url);
        let key = self.key.clone().or_else(|| local.as_ref().map(|dev| dev.api_key.clone()));
        let operator_token = self.operator_token.clone().or_else(|| local.map(|dev| dev.operator_token));
        let http = reqwest::Client::builder().timeout(TIMEOUT).build().context("no HTTP client could be made")?;
        Ok(Client { http, base_url, key, operator_token })
    }
}

impl Client {
    /// A request to `path` (beginning with `/`).
    pub(crate) fn request(&self, who: As, method: Method, path: &str) -> Result<RequestBuilder> {
        let secret = match who {
            As::Key => self.key.as_ref().context("no API key: give --key or set TRIGGERS_API_KEY")?,
            As::Operator => self
                .operator_token
                .as_ref()
                .context("no operator token: give --operator-token or set OPERATOR_TOKEN")?,
        };
        Ok(self.http.request(method, format!("{}{path}", self.base_url)).bearer_auth(secret))
    }

    /// Sends and reads the answer; a problem becomes an error with its sentence.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let (status, body) = self.send(request).await?;
        serde_json::from_slice(&body)
            .with_context(|| format!("the answer (HTTP {}) was not understood", status.as_u16()))
    }

    /// Sends and forgets the answer's body; a problem becomes an error with its sentence.
    pub(crate) async fn order(&self, request: RequestBuilder) -> Result<StatusCode> {
        Ok(self.send(request).await?.0)
    }

    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, Vec<u8>)> {
        let response = request.send().await.map_err(|error| {
            let hint = if error.is_connect() { "; is it running?" } else { "" };
            anyhow::anyhow!("{} did not answer: {}{hint}", self.base_url, error.without_url())
        })?;
        let status = response.status();
        let body = response.bytes().await.context("the answer broke off")?.to_vec();
        if status.is_success() {
            return Ok((status, body));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => {
                let text = format!("{} (HTTP {}, request {})", problem.detail, status.as_u16(), problem.request_id);
                Err(Refused { status, text }.into())
            }
            Err(_) => Err(Refused { status, text: format!("HTTP {}", status.as_u16()) }.into()),
        }
    }
}
