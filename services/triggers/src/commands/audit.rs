//! `triggers audit`: who changed keys, endpoints and the organization.

use anyhow::Result;
use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::print;
use crate::client::{Client, Credential};

/// Options of `triggers audit`.
#[derive(Args)]
pub(crate) struct AuditArgs {
    /// Only this action, such as key.revoked
    #[arg(long)]
    action: Option<String>,
    /// Only entries from this time on, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only entries before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Continue after an earlier page, with the cursor that it printed
    #[arg(long)]
    cursor: Option<String>,
    /// Entries at most, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

pub(super) async fn run(client: &Client, args: AuditArgs) -> Result<()> {
    let mut query = vec![("limit", args.limit.to_string())];
    let filters = [("action", args.action), ("since", args.since), ("until", args.until), ("cursor", args.cursor)];
    query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let request = client.request(Credential::ApiKey, Method::GET, "/v1/audit")?.query(&query);
    let response: Value = client.fetch(request).await?;
    let rows = response.get("entries").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    print::table(
        rows,
        &[
            ("AT", "/at"),
            ("ACTION", "/action"),
            ("TARGET", "/target"),
            ("ACTOR", "/actor"),
            ("KEY", "/key_prefix"),
            ("ADDRESS", "/address"),
        ],
    )?;
    match response.get("next_cursor").and_then(Value::as_str) {
        Some(cursor) => print::warn(&format!("there are older entries: --cursor {cursor}")),
        None => Ok(()),
    }
}
