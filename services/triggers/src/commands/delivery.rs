//! `triggers delivery`: one delivery of an event to an endpoint.

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;
use schemas::ids::DeliveryId;

use super::print;
use crate::client::{Client, Credential};

/// Options of `triggers delivery`.
#[derive(Args)]
pub(crate) struct DeliveryArgs {
    #[command(subcommand)]
    action: DeliveryAction,
}

#[derive(Subcommand)]
enum DeliveryAction {
    /// Show a delivery with its attempts
    Show {
        /// Id of the delivery
        id: DeliveryId,
    },
    /// Send a delivery again at once, also one that was delivered
    Retry {
        /// Id of the delivery
        id: DeliveryId,
    },
}

pub(super) async fn run(client: &Client, args: DeliveryArgs) -> Result<()> {
    let (method, path) = match args.action {
        DeliveryAction::Show { id } => (Method::GET, format!("/v1/deliveries/{id}")),
        DeliveryAction::Retry { id } => (Method::POST, format!("/v1/deliveries/{id}/retry")),
    };
    print::json(&client.fetch(client.request(Credential::ApiKey, method, &path)?).await?)
}
