//! `triggers inbox`: one page of the inbox.

use anyhow::Result;
use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::print;
use crate::client::{As, Client};

/// Flags of `triggers inbox`.
#[derive(Args)]
pub struct InboxArgs {
    /// Events at most
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Continue after this cursor
    #[arg(long)]
    cursor: Option<String>,
    /// Only these types; may be given more than once
    #[arg(long = "event-type", value_name = "TYPE")]
    event_types: Vec<String>,
    /// Also what is acknowledged
    #[arg(long)]
    all: bool,
    /// The whole answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub async fn run(client: &Client, args: InboxArgs) -> Result<()> {
    let mut query: Vec<(&str, String)> = vec![("limit", args.limit.to_string())];
    query.extend(args.cursor.map(|cursor| ("cursor", cursor)));
    query.extend(args.event_types.into_iter().map(|kind| ("event_type", kind)));
    if args.all {
        query.push(("include_acknowledged", "true".to_owned()));
    }
    let page: Value = client.fetch(client.request(As::Key, Method::GET, "/v1/inbox")?.query(&query)).await?;
    if args.json {
        return print::json(&page);
    }
    let events = page.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    print::table(
        events,
        &[("ID", "/event_id"), ("TYPE", "/event_type"), ("TIME", "/timestamp"), ("STATUS", "/status"), ("PAYLOAD", "/payload")],
    )?;
    match page.get("next_cursor").and_then(Value::as_str) {
        Some(cursor) => {
            eprintln!("more: triggers inbox --cursor {cursor}");
            Ok(())
        }
        None => Ok(()),
    }
}
