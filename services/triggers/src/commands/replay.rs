//! Retries of failed deliveries in bulk.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::print;
use super::progress::ProgressDisplay;
use crate::client::{Client, Credential};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Which failed deliveries to retry.
#[derive(Args)]
pub(super) struct RetrySelection {
    /// Only deliveries from this time on, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only deliveries before this time; default: now
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only events of this type; repeatable
    #[arg(long = "event-type", value_name = "TYPE")]
    event_types: Vec<String>,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
}

impl RetrySelection {
    fn body(&self, dry_run: bool) -> Value {
        let mut body = json!({"only": "failed", "event_types": self.event_types, "dry_run": dry_run});
        for (name, time) in [("from", &self.from), ("to", &self.to)] {
            if let Some(time) = time {
                body[name] = json!(time);
            }
        }
        body
    }
}

/// Starts a replay and waits until it has scheduled everything.
pub(super) async fn retry(client: &Client, endpoint: &str, selection: &RetrySelection) -> Result<()> {
    let path = format!("/v1/endpoints/{endpoint}/retry");
    let post = async |dry_run| -> Result<Value> {
        client.fetch(client.request(Credential::ApiKey, Method::POST, &path)?.json(&selection.body(dry_run))).await
    };
    let counted = post(true).await?;
    if selection.dry_run {
        return print::json(&counted);
    }
    let total = counted["matched"].as_u64().unwrap_or(0);
    let started = post(false).await?;
    let Some(id) = started["replay_id"].as_str() else { bail!("the answer has no replay_id: {started}") };
    let path = format!("/v1/replays/{id}");
    let progress = ProgressDisplay::new("deliveries scheduled")?;
    loop {
        let replay: Value = client.fetch(client.request(Credential::ApiKey, Method::GET, &path)?).await?;
        let matched = replay["matched"].as_u64().unwrap_or(0);
        progress.show(matched, total.max(matched));
        if replay["status"] != "running" {
            progress.finish();
            return print::json(&replay);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
