//! An HTTP client for requests that are not measured: creating organizations and reading inboxes.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use runtime::http_client;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::target::Address;

/// Sends control requests to one system.
#[derive(Clone)]
pub(crate) struct ControlClient {
    client: reqwest::Client,
    base: String,
}

impl ControlClient {
    /// A client for the system at `address`.
    pub(crate) fn new(address: &Address) -> anyhow::Result<Self> {
        // reqwest needs a TLS provider even for plain HTTP. An error means that one is installed already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let url = address.url();
        if let Some(warning) = http_client::plain_text_warning(&url) {
            eprintln!("bench: warning: {warning}");
        }
        let client =
            http_client::builder(&url).timeout(Duration::from_secs(60)).build().context("building the HTTP client")?;
        Ok(Self { client, base: url })
    }

    /// `GET path`; returns status and body.
    pub(crate) async fn get(&self, path: &str, key: &str) -> anyhow::Result<(u16, Bytes)> {
        let reply = self
            .client
            .get(format!("{}{path}", self.base))
            .bearer_auth(key)
            .send()
            .await
            .with_context(|| format!("GET {path}"))?;
        let status = reply.status().as_u16();
        Ok((status, reply.bytes().await.with_context(|| format!("GET {path}"))?))
    }

    /// `DELETE path`; returns the status.
    pub(crate) async fn delete(&self, path: &str, key: &str) -> anyhow::Result<u16> {
        let request = self.client.delete(format!("{}{path}", self.base)).bearer_auth(key);
        Ok(request.send().await.with_context(|| format!("DELETE {path}"))?.status().as_u16())
    }

    /// `POST path` with a JSON body. Any status but success is an error.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        key: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth(key).json(body);
        let reply = request.send().await.with_context(|| format!("POST {path}"))?;
        let status = reply.status();
        let bytes = reply.bytes().await.with_context(|| format!("POST {path}"))?;
        if !status.is_success() {
            bail!("POST {path} answered {status}: {}", String::from_utf8_lossy(&bytes));
        }
        serde_json::from_slice(&bytes).with_context(|| format!("POST {path}: unexpected reply"))
    }
}
