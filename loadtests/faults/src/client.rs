//! An HTTP client for all instances of `ingest`: it sends each request to one of them, in turns, and is never retried.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use runtime::http_client;
use serde_json::Value;

/// Longer than the product's own budget for an event and for a long poll. The outcome of a longer request is unknown.
const TIMEOUT: Duration = Duration::from_secs(8);

/// A client of several instances.
pub(crate) struct Api {
    http: reqwest::Client,
    base_urls: Vec<String>,
    turn: AtomicUsize,
}

impl Api {
    /// A client of the instances at `base_urls`.
    pub(crate) fn new(base_urls: Vec<String>) -> anyhow::Result<Self> {
        let http = http_client::builder(base_urls.first().map_or("", String::as_str)).timeout(TIMEOUT).build()?;
        Ok(Self { http, base_urls, turn: AtomicUsize::new(0) })
    }

    /// Sends a GET; returns status and body.
    pub(crate) async fn get(&self, path: &str, key: &str) -> anyhow::Result<(u16, Bytes)> {
        self.send(self.http.get(self.url(path)).bearer_auth(key)).await
    }

    /// Sends a DELETE; returns status and body.
    pub(crate) async fn delete(&self, path: &str, key: &str) -> anyhow::Result<(u16, Bytes)> {
        self.send(self.http.delete(self.url(path)).bearer_auth(key)).await
    }

    /// Sends a POST of JSON; returns status and body.
    pub(crate) async fn post(
        &self,
        path: &str,
        key: &str,
        body: String,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<(u16, Bytes)> {
        let mut request =
            self.http.post(self.url(path)).bearer_auth(key).header("content-type", "application/json").body(body);
        if let Some(idempotency_key) = idempotency_key {
            request = request.header("idempotency-key", idempotency_key);
        }
        self.send(request).await
    }

    /// Sends a POST that must create something; returns the reply.
    pub(crate) async fn create(&self, path: &str, key: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = self.post(path, key, body.to_string(), None).await?;
        if status != 201 {
            bail!("POST {path} answered {status}: {}", String::from_utf8_lossy(&answer));
        }
        serde_json::from_slice(&answer).with_context(|| format!("POST {path} answered invalid JSON"))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Bytes)> {
        let reply = request.send().await?;
        let status = reply.status().as_u16();
        Ok((status, reply.bytes().await?))
    }

    fn url(&self, path: &str) -> String {
        let turn = self.turn.fetch_add(1, Relaxed);
        let base_url = self.base_urls.get(turn % self.base_urls.len().max(1)).map_or("", String::as_str);
        format!("{base_url}{path}")
    }
}
