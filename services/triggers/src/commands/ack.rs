//! `triggers ack`: acknowledges events by id, or all events in the inbox.

use anyhow::{Result, bail};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::{inbox_page, print};
use crate::client::{Client, Credential};

/// Largest number of ids in one request.
const CHUNK: usize = 1000;

/// Options of `triggers ack`.
#[derive(Args)]
pub(crate) struct AckArgs {
    /// Ids of events
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    event_ids: Vec<String>,
    /// Acknowledge all events that are in the inbox now
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(client: &Client, args: AckArgs) -> Result<()> {
    let ids = if args.all { inbox_ids(client).await? } else { args.event_ids };
    let (mut acknowledged, mut failed) = (0, 0);
    for chunk in ids.chunks(CHUNK) {
        let request =
            client.request(Credential::ApiKey, Method::POST, "/v1/inbox/ack")?.json(&json!({"event_ids": chunk}));
        let response: Value = client.fetch(request).await?;
        acknowledged += response.get("acknowledged").and_then(Value::as_u64).unwrap_or(0);
        failed += response.get("failed").and_then(Value::as_u64).unwrap_or(0);
    }
    print::line(&format!("{acknowledged} acknowledged"))?;
    if failed > 0 {
        bail!("{failed} events were not found");
    }
    Ok(())
}

async fn inbox_ids(client: &Client) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", CHUNK.to_string())];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let page = inbox_page::fetch(client, &query).await?;
        ids.extend(page.decode()?.into_iter().map(|event| event.event_id));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(ids);
        }
    }
}
