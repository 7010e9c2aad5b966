//! `triggers endpoint`: webhook endpoints. A new endpoint's secret is printed once.

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::print;
use crate::client::{As, Client};

/// Flags of `triggers endpoint`.
#[derive(Args)]
pub(crate) struct EndpointArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make one; the answer holds the secret, this once
    Create {
        /// Where events are posted to
        webhook_url: String,
        /// Only these types, `order.*` for all that begin so; may be given more than once; default: all
        #[arg(long = "event-type", value_name = "TYPE")]
        event_types: Vec<String>,
        /// What it is for
        #[arg(long)]
        description: Option<String>,
    },
    /// List all
    List,
    /// Show one
    Show {
        /// Its id
        id: String,
    },
    /// Delete one; pending deliveries are cancelled
    Delete {
        /// Its id
        id: String,
    },
}

pub(super) async fn run(client: &Client, args: EndpointArgs) -> Result<()> {
    match args.action {
        Action::Create { webhook_url, event_types, description } => {
            let mut body = json!({"url": webhook_url, "event_types": event_types});
            if let Some(description) = description {
                body["description"] = json!(description);
            }
            print::json(&client.fetch(client.request(As::Key, Method::POST, "/v1/endpoints")?.json(&body)).await?)
        }
        Action::List => {
            let answer: Value = client.fetch(client.request(As::Key, Method::GET, "/v1/endpoints")?).await?;
            let rows = answer.get("endpoints").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            print::table(rows, &[("ID", "/id"), ("URL", "/url"), ("TYPES", "/event_types"), ("STATUS", "/status")])
        }
        Action::Show { id } => {
            print::json(&client.fetch(client.request(As::Key, Method::GET, &format!("/v1/endpoints/{id}"))?).await?)
        }
        Action::Delete { id } => {
            client.order(client.request(As::Key, Method::DELETE, &format!("/v1/endpoints/{id}"))?).await?;
            print::line("deleted")
        }
    }
}
