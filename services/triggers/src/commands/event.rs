//! `triggers event`: where an event went.

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;
use schemas::ids::EventId;
use serde_json::Value;

use super::deliveries::{self, DeliveryFilters};
use super::print::{self, Output};
use crate::client::{Client, Credential};

/// Options of `triggers event`.
#[derive(Args)]
pub(crate) struct EventArgs {
    #[command(subcommand)]
    action: EventAction,
}

#[derive(Subcommand)]
enum EventAction {
    /// List the deliveries of an event, newest first
    Deliveries {
        /// Id of the event
        id: EventId,
        #[command(flatten)]
        filters: DeliveryFilters,
    },
    /// Explain for each endpoint why the event did or did not arrive
    Explain {
        /// Id of the event
        id: EventId,
        /// Format; default: table on a terminal, else json
        #[arg(long, value_enum)]
        output: Option<Output>,
    },
}

pub(super) async fn run(client: &Client, args: EventArgs) -> Result<()> {
    match args.action {
        EventAction::Deliveries { id, filters } => {
            deliveries::list(client, &format!("/v1/events/{id}/deliveries"), filters).await
        }
        EventAction::Explain { id, output } => {
            let request = client.request(Credential::ApiKey, Method::GET, &format!("/v1/events/{id}/explain"))?;
            let response: Value = client.fetch(request).await?;
            if let Some(original) = response.get("duplicate_of").and_then(Value::as_str) {
                print::warn(&format!("the event is a duplicate of {original}, which was delivered instead"))?;
            }
            let rows = response.get("endpoints").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let columns = [
                ("ENDPOINT", "/endpoint_id"),
                ("VERDICT", "/verdict"),
                ("ATTEMPTS", "/attempts"),
                ("NEXT ATTEMPT", "/next_attempt_at"),
                ("WHY", "/explanation"),
            ];
            print::rows(rows, &columns, output)
        }
    }
}
