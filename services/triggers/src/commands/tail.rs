//! `triggers tail`: prints events as they arrive, one JSON object a line, until interrupted. Acknowledges nothing.

use anyhow::Result;
use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::print;
use crate::client::{As, Client};

/// Flags of `triggers tail`.
#[derive(Args)]
pub struct TailArgs {
    /// Begin with what is not acknowledged yet, instead of with what arrives from now on
    #[arg(long)]
    from_start: bool,
    /// Only these types; may be given more than once
    #[arg(long = "event-type", value_name = "TYPE")]
    event_types: Vec<String>,
    /// End after so many events
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

/// Runs it.
pub async fn run(client: &Client, args: TailArgs) -> Result<()> {
    let mut cursor = if args.from_start { None } else { Some(end(client).await?) };
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let mut query: Vec<(&str, String)> = vec![("limit", left.min(1000).to_string()), ("wait", "30".to_owned())];
        query.extend(cursor.clone().map(|cursor| ("cursor", cursor)));
        query.extend(args.event_types.iter().map(|kind| ("event_type", kind.clone())));
        let page: Value = client.fetch(client.request(As::Key, Method::GET, "/v1/inbox")?.query(&query)).await?;
        let events = page.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for event in events {
            print::line(&event.to_string())?;
        }
        left = left.saturating_sub(events.len() as u64);
        cursor = page.get("resume_cursor").and_then(Value::as_str).map(str::to_owned).or(cursor);
    }
    Ok(())
}

/// The cursor behind everything that is there now: a descending read's first page fixes it.
async fn end(client: &Client) -> Result<String> {
    let query = [("limit", "1"), ("order", "desc"), ("include_acknowledged", "true")];
    let page: Value = client.fetch(client.request(As::Key, Method::GET, "/v1/inbox")?.query(&query)).await?;
    page.get("resume_cursor").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| anyhow::anyhow!("the answer has no resume_cursor"))
}
