//! `triggers org`: organizations, as the operator.

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::print;
use crate::client::{As, Client};

/// Flags of `triggers org`.
#[derive(Args)]
pub struct OrgArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make one
    Create {
        /// Name, 1 to 255 characters
        name: String,
        /// free, pro, business or enterprise
        #[arg(long, default_value = "free")]
        tier: String,
    },
    /// List all
    List,
    /// Show one
    Show {
        /// Its id
        id: String,
    },
}

/// Runs it.
pub async fn run(client: &Client, args: OrgArgs) -> Result<()> {
    match args.action {
        Action::Create { name, tier } => {
            let request = client.request(As::Operator, Method::POST, "/v1/organizations")?.json(&json!({"name": name, "tier": tier}));
            print::json(&client.fetch(request).await?)
        }
        Action::List => {
            let answer: Value = client.fetch(client.request(As::Operator, Method::GET, "/v1/organizations")?).await?;
            let rows = answer.get("organizations").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            print::table(rows, &[("ID", "/id"), ("NAME", "/name"), ("TIER", "/tier"), ("CREATED", "/created_at")])
        }
        Action::Show { id } => {
            let request = client.request(As::Operator, Method::GET, &format!("/v1/organizations/{id}"))?;
            print::json(&client.fetch(request).await?)
        }
    }
}
