//! `triggers org`: organizations, as the operator.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use schemas::ids::OrgId;
use serde_json::{Value, json};

use super::print;
use crate::client::{Client, Credential};

/// Options of `triggers org`.
#[derive(Args)]
pub(crate) struct OrgArgs {
    #[command(subcommand)]
    action: OrgAction,
}

#[derive(Subcommand)]
enum OrgAction {
    /// Create an organization
    Create {
        /// Name, 1 to 255 characters
        name: String,
        /// free, pro, business or enterprise
        #[arg(long, default_value = "free")]
        tier: String,
        /// Requests per minute instead of those of the tier; 0: unlimited
        #[arg(long, value_name = "PER_MINUTE")]
        limit: Option<u32>,
        /// URL of its default endpoint, whose secret is printed and never shown again
        #[arg(long, value_name = "URL")]
        webhook_url: Option<String>,
    },
    /// List all organizations
    List,
    /// Show an organization
    Show {
        /// Id of the organization
        id: OrgId,
    },
    /// Change an organization; options that are left out change nothing
    Patch {
        /// Id of the organization
        id: OrgId,
        /// New name
        #[arg(long)]
        name: Option<String>,
        /// free, pro, business or enterprise
        #[arg(long)]
        tier: Option<String>,
        /// Requests per minute instead of those of the tier; 0: unlimited
        #[arg(long, value_name = "PER_MINUTE")]
        limit: Option<u32>,
        /// The limit of the tier
        #[arg(long, conflicts_with = "limit")]
        no_limit: bool,
        /// URL of its default endpoint; the secret of a new one is printed and never shown again
        #[arg(long, value_name = "URL")]
        webhook_url: Option<String>,
    },
    /// Erase an organization irrevocably: its API keys stop working at once, and its events, endpoints and deliveries
    /// are deleted within minutes. Needs --yes
    Erase {
        /// Id of the organization
        id: OrgId,
        /// Really erase it; this cannot be undone
        #[arg(long)]
        yes: bool,
    },
}

const COLUMNS: [(&str, &str); 7] = [
    ("ID", "/id"),
    ("NAME", "/name"),
    ("TIER", "/tier"),
    ("LIMIT", "/rate_limit_per_minute"),
    ("WEBHOOK", "/webhook_url"),
    ("STATUS", "/status"),
    ("CREATED", "/created_at"),
];

pub(super) async fn run(client: &Client, args: OrgArgs) -> Result<()> {
    match args.action {
        OrgAction::Create { name, tier, limit, webhook_url } => {
            let body = body_of(Some(name), Some(tier), limit, webhook_url);
            let request = client.request(Credential::OperatorToken, Method::POST, "/v1/organizations")?;
            print::json(&client.fetch(request.json(&body)).await?)
        }
        OrgAction::List => {
            let response: Value =
                client.fetch(client.request(Credential::OperatorToken, Method::GET, "/v1/organizations")?).await?;
            let rows = response.get("organizations").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            print::table(rows, &COLUMNS)
        }
        OrgAction::Show { id } => print::json(&show(client, id).await?),
        OrgAction::Patch { id, name, tier, limit, no_limit, webhook_url } => {
            let mut body = body_of(name, tier, limit, webhook_url);
            if no_limit {
                body["rate_limit_per_minute"] = Value::Null;
            }
            let path = format!("/v1/organizations/{id}");
            let request = client.request(Credential::OperatorToken, Method::PATCH, &path)?;
            print::json(&client.fetch(request.json(&body)).await?)
        }
        OrgAction::Erase { id, yes } => {
            if !yes {
                let name = show(client, id).await?.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                bail!("this erases {name} and all its data irrevocably; to do it, repeat the command with --yes");
            }
            client
                .execute(client.request(
                    Credential::OperatorToken,
                    Method::DELETE,
                    &format!("/v1/organizations/{id}"),
                )?)
                .await?;
            print::json(&show(client, id).await?)
        }
    }
}

/// The body of a request, with the given members.
fn body_of(name: Option<String>, tier: Option<String>, limit: Option<u32>, webhook_url: Option<String>) -> Value {
    let mut body = json!({});
    for (member, value) in [("name", name), ("tier", tier), ("webhook_url", webhook_url)] {
        if let Some(value) = value {
            body[member] = json!(value);
        }
    }
    if let Some(limit) = limit {
        body["rate_limit_per_minute"] = json!(limit);
    }
    body
}

async fn show(client: &Client, id: OrgId) -> Result<Value> {
    client.fetch(client.request(Credential::OperatorToken, Method::GET, &format!("/v1/organizations/{id}"))?).await
}
