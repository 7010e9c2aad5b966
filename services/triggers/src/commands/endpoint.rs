//! `triggers endpoint`: webhook endpoints. The secret of a new endpoint is printed once.

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;
use schemas::ids::EndpointId;
use serde_json::{Value, json};

use super::deliveries::{self, DeliveryFilters};
use super::print;
use super::replay::{self, EventSelection, Range};
use crate::client::{Client, Credential};

/// Options of `triggers endpoint`.
#[derive(Args)]
pub(crate) struct EndpointArgs {
    #[command(subcommand)]
    action: EndpointAction,
}

#[derive(Subcommand)]
enum EndpointAction {
    /// Create an endpoint and print it with its secret, which is never shown again
    Create {
        /// URL that events are posted to
        webhook_url: String,
        /// Only events of this type, or, as in `order.*`, with this prefix; repeatable; default: all types
        #[arg(long = "event-type", value_name = "TYPE")]
        event_types: Vec<String>,
        /// Description for people
        #[arg(long)]
        description: Option<String>,
        /// Also deliver earlier events, from this time or from the event with this position on
        #[arg(long, value_name = "TIME|POSITION")]
        backfill_from: Option<String>,
    },
    /// List all endpoints
    List,
    /// Show an endpoint
    Show {
        /// Id of the endpoint
        id: EndpointId,
    },
    /// List the deliveries of an endpoint, newest first
    Deliveries {
        /// Id of the endpoint
        id: EndpointId,
        #[command(flatten)]
        filters: DeliveryFilters,
    },
    /// Show how deliveries to an endpoint go: counts, share of successes, latency, last error
    Stats {
        /// Id of the endpoint
        id: EndpointId,
        /// Time that ends now: 1h, 24h or 7d
        #[arg(long, default_value = "24h", value_parser = ["1h", "24h", "7d"])]
        window: String,
    },
    /// Send an event of type triggers.test to an endpoint, once, and print the id of its delivery
    Test {
        /// Id of the endpoint
        id: EndpointId,
    },
    /// Retry the deliveries of an endpoint that failed, and show the progress
    Retry {
        /// Id of the endpoint
        id: EndpointId,
        #[command(flatten)]
        range: Range,
    },
    /// Send events to an endpoint again, or those that it never got, and print the id of the replay
    Replay {
        /// Id of the endpoint
        id: EndpointId,
        #[command(flatten)]
        selection: EventSelection,
    },
    /// Give an endpoint a new secret and print it, which is never shown again
    Rotate {
        /// Id of the endpoint
        id: EndpointId,
        /// How long webhooks are signed with the previous secret as well
        #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
        overlap_seconds: u32,
    },
    /// Delete an endpoint and cancel its pending deliveries
    Delete {
        /// Id of the endpoint
        id: EndpointId,
    },
}

pub(super) async fn run(client: &Client, args: EndpointArgs) -> Result<()> {
    match args.action {
        EndpointAction::Create { webhook_url, event_types, description, backfill_from } => {
            let mut body = json!({"url": webhook_url, "event_types": event_types});
            if let Some(description) = description {
                body["description"] = json!(description);
            }
            if let Some(from) = backfill_from {
                body["backfill_from"] = json!(from);
            }
            print::json(
                &client.fetch(client.request(Credential::ApiKey, Method::POST, "/v1/endpoints")?.json(&body)).await?,
            )
        }
        EndpointAction::List => {
            let response: Value =
                client.fetch(client.request(Credential::ApiKey, Method::GET, "/v1/endpoints")?).await?;
            let rows = response.get("endpoints").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            print::table(rows, &[("ID", "/id"), ("URL", "/url"), ("TYPES", "/event_types"), ("STATUS", "/status")])
        }
        EndpointAction::Show { id } => print::json(
            &client.fetch(client.request(Credential::ApiKey, Method::GET, &format!("/v1/endpoints/{id}"))?).await?,
        ),
        EndpointAction::Deliveries { id, filters } => {
            deliveries::list(client, &format!("/v1/endpoints/{id}/deliveries"), filters).await
        }
        EndpointAction::Stats { id, window } => {
            let path = format!("/v1/endpoints/{id}/stats");
            let request = client.request(Credential::ApiKey, Method::GET, &path)?.query(&[("window", window)]);
            print::json(&client.fetch(request).await?)
        }
        EndpointAction::Test { id } => {
            let path = format!("/v1/endpoints/{id}/test");
            print::json(&client.fetch(client.request(Credential::ApiKey, Method::POST, &path)?).await?)
        }
        EndpointAction::Retry { id, range } => replay::retry(client, id, &range).await,
        EndpointAction::Replay { id, selection } => replay::replay(client, id, &selection).await,
        EndpointAction::Rotate { id, overlap_seconds } => {
            let path = format!("/v1/endpoints/{id}/secret/rotate");
            let body = json!({"overlap_seconds": overlap_seconds});
            print::json(&client.fetch(client.request(Credential::ApiKey, Method::POST, &path)?.json(&body)).await?)
        }
        EndpointAction::Delete { id } => {
            client.execute(client.request(Credential::ApiKey, Method::DELETE, &format!("/v1/endpoints/{id}"))?).await?;
            print::line("deleted")
        }
    }
}
