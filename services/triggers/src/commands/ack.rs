//! `triggers ack`: acknowledges events by id, or everything that is in the inbox.

use anyhow::{Result, bail};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::print;
use crate::client::{As, Client};

/// As many as one request takes.
const CHUNK: usize = 1000;

/// Flags of `triggers ack`.
#[derive(Args)]
pub struct AckArgs {
    /// Ids of events
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    event_ids: Vec<String>,
    /// Everything that is in the inbox now
    #[arg(long)]
    all: bool,
}

/// Runs it.
pub async fn run(client: &Client, args: AckArgs) -> Result<()> {
    let ids = if args.all { inbox_ids(client).await? } else { args.event_ids };
    let (mut acknowledged, mut failed) = (0, 0);
    for chunk in ids.chunks(CHUNK) {
        let request = client.request(As::Key, Method::POST, "/v1/inbox/ack")?.json(&json!({"event_ids": chunk}));
        let answer: Value = client.fetch(request).await?;
        acknowledged += answer.get("acknowledged").and_then(Value::as_u64).unwrap_or(0);
        failed += answer.get("failed").and_then(Value::as_u64).unwrap_or(0);
    }
    print::line(&format!("{acknowledged} acknowledged"))?;
    if failed > 0 {
        bail!("{failed} not found");
    }
    Ok(())
}

async fn inbox_ids(client: &Client) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", CHUNK.to_string())];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let page: Value = client.fetch(client.request(As::Key, Method::GET, "/v1/inbox")?.query(&query)).await?;
        let events = page.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        ids.extend(events.iter().filter_map(|event| event.get("event_id")?.as_str().map(str::to_owned)));
        cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            return Ok(ids);
        }
    }
}
