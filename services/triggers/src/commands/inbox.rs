//! `triggers inbox`: one page of the inbox.

use std::io::IsTerminal as _;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::{inbox_page, print};
use crate::client::Client;

/// Options of `triggers inbox`.
#[derive(Args)]
pub(crate) struct InboxArgs {
    /// Largest number of events
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Start after this cursor
    #[arg(long)]
    cursor: Option<String>,
    /// Only events of this type; repeatable
    #[arg(long = "event-type", value_name = "TYPE")]
    event_types: Vec<String>,
    /// Include acknowledged events
    #[arg(long)]
    all: bool,
    /// Print the whole response as JSON; default: columns on a terminal, else one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(client: &Client, args: InboxArgs) -> Result<()> {
    let mut query: Vec<(&str, String)> = vec![("limit", args.limit.to_string())];
    query.extend(args.cursor.map(|cursor| ("cursor", cursor)));
    query.extend(args.event_types.into_iter().map(|kind| ("event_type", kind)));
    if args.all {
        query.push(("include_acknowledged", "true".to_owned()));
    }
    if args.json {
        return print::line(inbox_page::fetch_text(client, &query).await?.get());
    }
    let page = inbox_page::fetch(client, &query).await?;
    if !std::io::stdout().is_terminal() {
        page.events.iter().try_for_each(|event| print::line(event.get()))?;
    } else {
        let cells = |event: inbox_page::InboxEvent| {
            json!({
                "id": event.event_id, "type": event.event_type, "time": event.timestamp, "status": event.status,
                "payload": event.payload.get(),
            })
        };
        let rows: Vec<Value> = page.decode()?.into_iter().map(cells).collect();
        print::table(
            &rows,
            &[("ID", "/id"), ("TYPE", "/type"), ("TIME", "/time"), ("STATUS", "/status"), ("PAYLOAD", "/payload")],
        )?;
    }
    if let Some(cursor) = page.next_cursor {
        eprintln!("more events: triggers inbox --cursor {cursor}");
    }
    Ok(())
}
