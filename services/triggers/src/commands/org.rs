//! `triggers org`: organizations, as the operator.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::print;
use crate::client::{As, Client};

/// Flags of `triggers org`.
#[derive(Args)]
pub(crate) struct OrgArgs {
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
    /// Erase one for good: its keys die at once, its events, endpoints and deliveries go within minutes. Needs --yes
    Erase {
        /// Its id
        id: String,
        /// Do it; there is no way back
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(client: &Client, args: OrgArgs) -> Result<()> {
    match args.action {
        Action::Create { name, tier } => {
            let request = client
                .request(As::Operator, Method::POST, "/v1/organizations")?
                .json(&json!({"name": name, "tier": tier}));
            print::json(&client.fetch(request).await?)
        }
        Action::List => {
            let answer: Value = client.fetch(client.request(As::Operator, Method::GET, "/v1/organizations")?).await?;
            let rows = answer.get("organizations").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            print::table(rows, &[("ID", "/id"), ("NAME", "/name"), ("TIER", "/tier"), ("CREATED", "/created_at")])
        }
        Action::Show { id } => print::json(&show(client, &id).await?),
        Action::Erase { id, yes } => {
            if !yes {
                let name = show(client, &id).await?.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                bail!("this erases {name} and everything of it for good; to do it, run it again with --yes");
            }
            client.order(client.request(As::Operator, Method::DELETE, &format!("/v1/organizations/{id}"))?).await?;
            print::json(&show(client, &id).await?)
        }
    }
}

async fn show(client: &Client, id: &str) -> Result<Value> {
    client.fetch(client.request(As::Operator, Method::GET, &format!("/v1/organizations/{id}"))?).await
}
