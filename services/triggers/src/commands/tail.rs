//! `triggers tail`: prints events as they arrive, one JSON object a line, until interrupted. It acknowledges nothing.

use anyhow::Result;
use clap::Args;

use super::{inbox_page, print};
use crate::client::Client;

/// Options of `triggers tail`.
#[derive(Args)]
pub(crate) struct TailArgs {
    /// Start with the oldest unacknowledged event; default: only events that arrive from now on
    #[arg(long)]
    from_start: bool,
    /// Only events of this type; repeatable
    #[arg(long = "event-type", value_name = "TYPE")]
    event_types: Vec<String>,
    /// Exit after this number of events
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
}

pub(super) async fn run(client: &Client, args: TailArgs) -> Result<()> {
    let mut cursor = if args.from_start { None } else { Some(end_cursor(client).await?) };
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let mut query: Vec<(&str, String)> = vec![("limit", left.min(1000).to_string()), ("wait", "30".to_owned())];
        query.extend(cursor.clone().map(|cursor| ("cursor", cursor)));
        query.extend(args.event_types.iter().map(|kind| ("event_type", kind.clone())));
        let page = inbox_page::fetch(client, &query).await?;
        page.events.iter().try_for_each(|event| print::line(event.get()))?;
        left = left.saturating_sub(page.events.len() as u64);
        cursor = page.resume_cursor.or(cursor);
    }
    Ok(())
}

/// The cursor after the newest event. The first page of a descending read has it.
async fn end_cursor(client: &Client) -> Result<String> {
    let query = [("limit", "1"), ("order", "desc"), ("include_acknowledged", "true")]
        .map(|(name, value)| (name, value.to_owned()));
    inbox_page::fetch(client, &query)
        .await?
        .resume_cursor
        .ok_or_else(|| anyhow::anyhow!("the response has no resume_cursor"))
}
