//! `triggers key`: API keys. A new key's secret is printed once.

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::print;
use crate::client::{As, Client};

/// Flags of `triggers key`.
#[derive(Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make one; the answer holds the secret, this once
    Create {
        /// What it is for
        name: String,
        /// produce, consume, manage or admin
        #[arg(long, default_value = "produce")]
        role: String,
        /// The organization it is for, as the operator; default: the one of the key in use
        #[arg(long, value_name = "ID")]
        org: Option<String>,
        /// Only for these event types; may be given more than once
        #[arg(long = "event-type", value_name = "TYPE")]
        event_types: Vec<String>,
        /// live or test
        #[arg(long, default_value = "live")]
        environment: String,
    },
    /// List the organization's keys, without their secrets
    List,
    /// Show the key in use
    Show,
    /// Revoke one: it is refused everywhere within a second
    Revoke {
        /// Its id
        id: String,
    },
}

pub(super) async fn run(client: &Client, args: KeyArgs) -> Result<()> {
    match args.action {
        Action::Create { name, role, org, event_types, environment } => {
            let mut body = json!({"name": name, "role": role, "environment": environment});
            if !event_types.is_empty() {
                body["event_types"] = json!(event_types);
            }
            let request = match org {
                Some(org) => client.request(As::Operator, Method::POST, &format!("/v1/organizations/{org}/keys"))?,
                None => client.request(As::Key, Method::POST, "/v1/keys")?,
            };
            print::json(&client.fetch(request.json(&body)).await?)
        }
        Action::List => {
            let answer: Value = client.fetch(client.request(As::Key, Method::GET, "/v1/keys/list")?).await?;
            let rows = answer.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            print::table(
                rows,
                &[
                    ("ID", "/id"),
                    ("NAME", "/name"),
                    ("ROLE", "/role"),
                    ("PREFIX", "/prefix"),
                    ("CREATED", "/created_at"),
                    ("REVOKED", "/revoked_at"),
                ],
            )
        }
        Action::Show => print::json(&client.fetch(client.request(As::Key, Method::GET, "/v1/keys")?).await?),
        Action::Revoke { id } => {
            client.order(client.request(As::Key, Method::DELETE, &format!("/v1/keys/{id}"))?).await?;
            print::line("revoked")
        }
    }
}
