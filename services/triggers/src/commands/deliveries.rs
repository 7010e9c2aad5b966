//! A page of deliveries, of an endpoint or of an event.

use anyhow::Result;
use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::print::{self, Output};
use crate::client::{Client, Credential};

/// Which deliveries to list.
#[derive(Args)]
pub(super) struct DeliveryFilters {
    /// Only this state: pending, retrying, delivered, failed or cancelled; repeatable
    #[arg(long = "status", value_name = "STATE",
          value_parser = ["pending", "retrying", "delivered", "failed", "cancelled"])]
    states: Vec<String>,
    /// Only events of this type; repeatable
    #[arg(long = "event-type", value_name = "TYPE")]
    event_types: Vec<String>,
    /// Only deliveries from this time on, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only deliveries before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Continue after an earlier page, with the cursor that it printed
    #[arg(long)]
    cursor: Option<String>,
    /// Deliveries at most, 1 to 100
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// Format; default: table on a terminal, else json
    #[arg(long, value_enum)]
    output: Option<Output>,
}

impl DeliveryFilters {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.states.iter().map(|state| ("status", state.clone())));
        query.extend(self.event_types.iter().map(|name| ("event_type", name.clone())));
        let single = [("from", &self.from), ("to", &self.to), ("cursor", &self.cursor)];
        query.extend(single.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        query
    }
}

/// Prints a page of the deliveries at `path`.
pub(super) async fn list(client: &Client, path: &str, filters: DeliveryFilters) -> Result<()> {
    let request = client.request(Credential::ApiKey, Method::GET, path)?.query(&filters.query());
    let response: Value = client.fetch(request).await?;
    let rows = response.get("deliveries").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let columns = [
        ("DELIVERY", "/delivery_id"),
        ("EVENT", "/event_id"),
        ("TYPE", "/event_type"),
        ("STATUS", "/status"),
        ("ATTEMPTS", "/attempts"),
        ("NEXT ATTEMPT", "/next_attempt_at"),
        ("ANSWER", "/last_status_code"),
        ("ERROR", "/last_error"),
        ("CREATED", "/created_at"),
    ];
    print::rows(rows, &columns, filters.output)?;
    match response.get("next_cursor").and_then(Value::as_str) {
        Some(cursor) => print::warn(&format!("there are older deliveries: --cursor {cursor}")),
        None => Ok(()),
    }
}
