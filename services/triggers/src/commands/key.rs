//! `triggers key`: API keys. A new key is printed once.

use anyhow::Result;
use clap::{Args, Subcommand};
use reqwest::Method;
use schemas::ids::{KeyId, OrgId};
use serde_json::{Value, json};

use super::print;
use crate::client::{Client, Credential};

/// Options of `triggers key`.
#[derive(Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    action: KeyAction,
}

#[derive(Subcommand)]
enum KeyAction {
    /// Create an API key and print it; it is never shown again
    Create {
        /// Name of the key
        name: String,
        /// produce, consume, manage or admin
        #[arg(long, default_value = "produce")]
        role: String,
        /// Organization of the key, which needs the operator token; default: that of the API key in use
        #[arg(long, value_name = "ID")]
        org: Option<OrgId>,
        /// Allow only events of this type; repeatable
        #[arg(long = "event-type", value_name = "TYPE")]
        event_types: Vec<String>,
        /// Requests per minute; default: the limit of the organization
        #[arg(long, value_name = "PER_MINUTE")]
        limit: Option<u32>,
        /// Time after which the key is refused, such as 2030-01-31T12:00:00Z; default: never
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// live or test
        #[arg(long, default_value = "live")]
        environment: String,
    },
    /// Change an API key; options that are left out change nothing
    Patch {
        /// Id of the API key
        id: KeyId,
        /// New name
        #[arg(long)]
        name: Option<String>,
        /// produce, consume, manage or admin
        #[arg(long)]
        role: Option<String>,
        /// Allow only events of this type; repeatable
        #[arg(long = "event-type", value_name = "TYPE")]
        event_types: Vec<String>,
        /// Requests per minute
        #[arg(long, value_name = "PER_MINUTE")]
        limit: Option<u32>,
        /// Time after which the key is refused, such as 2030-01-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        removed: Removed,
    },
    /// Replace the API key in use by a new one and print it; it is never shown again
    Rotate {
        /// How long the old key stays valid, seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        overlap_seconds: u32,
    },
    /// List the organization's API keys, without their secrets
    List,
    /// Show the API key in use
    Show,
    /// Revoke an API key: every instance refuses it within a second
    Revoke {
        /// Id of the API key
        id: KeyId,
    },
}

/// Restrictions that a patch removes.
#[derive(Args)]
struct Removed {
    /// Allow all event types
    #[arg(long, conflicts_with = "event_types")]
    all_event_types: bool,
    /// Only the limit of the organization
    #[arg(long, conflicts_with = "limit")]
    no_limit: bool,
    /// The key never expires
    #[arg(long, conflicts_with = "expires")]
    no_expiry: bool,
}

impl Removed {
    fn apply(&self, body: &mut Value) {
        let members = [
            ("event_types", self.all_event_types),
            ("rate_limit_per_minute", self.no_limit),
            ("expires_at", self.no_expiry),
        ];
        for (member, _) in members.into_iter().filter(|(_, is_removed)| *is_removed) {
            body[member] = Value::Null;
        }
    }
}

const COLUMNS: [(&str, &str); 9] = [
    ("ID", "/id"),
    ("NAME", "/name"),
    ("ROLE", "/role"),
    ("PREFIX", "/prefix"),
    ("TYPES", "/event_types"),
    ("LIMIT", "/rate_limit_per_minute"),
    ("CREATED", "/created_at"),
    ("EXPIRES", "/expires_at"),
    ("REVOKED", "/revoked_at"),
];

pub(super) async fn run(client: &Client, args: KeyArgs) -> Result<()> {
    match args.action {
        KeyAction::Create { name, role, org, event_types, limit, expires, environment } => {
            let mut body = json!({"name": name, "role": role, "environment": environment});
            restrict(&mut body, event_types, limit, expires);
            let request = match org {
                Some(org) => {
                    client.request(Credential::OperatorToken, Method::POST, &format!("/v1/organizations/{org}/keys"))?
                }
                None => client.request(Credential::ApiKey, Method::POST, "/v1/keys")?,
            };
            print::json(&client.fetch(request.json(&body)).await?)
        }
        KeyAction::Patch { id, name, role, event_types, limit, expires, removed } => {
            let mut body = json!({});
            for (member, value) in [("name", name), ("role", role)] {
                if let Some(value) = value {
                    body[member] = json!(value);
                }
            }
            restrict(&mut body, event_types, limit, expires);
            removed.apply(&mut body);
            let request = client.request(Credential::ApiKey, Method::PATCH, &format!("/v1/keys/{id}"))?;
            print::json(&client.fetch(request.json(&body)).await?)
        }
        KeyAction::Rotate { overlap_seconds } => {
            let request = client.request(Credential::ApiKey, Method::POST, "/v1/keys/rotate")?;
            print::json(&client.fetch(request.json(&json!({"overlap_seconds": overlap_seconds}))).await?)
        }
        KeyAction::List => {
            let response: Value =
                client.fetch(client.request(Credential::ApiKey, Method::GET, "/v1/keys/list")?).await?;
            let rows = response.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            print::table(rows, &COLUMNS)
        }
        KeyAction::Show => {
            print::json(&client.fetch(client.request(Credential::ApiKey, Method::GET, "/v1/keys")?).await?)
        }
        KeyAction::Revoke { id } => {
            client.execute(client.request(Credential::ApiKey, Method::DELETE, &format!("/v1/keys/{id}"))?).await?;
            print::line("revoked")
        }
    }
}

/// Sets the given restrictions in the body of a request.
fn restrict(body: &mut Value, event_types: Vec<String>, limit: Option<u32>, expires: Option<String>) {
    if !event_types.is_empty() {
        body["event_types"] = json!(event_types);
    }
    if let Some(limit) = limit {
        body["rate_limit_per_minute"] = json!(limit);
    }
    if let Some(expires) = expires {
        body["expires_at"] = json!(expires);
    }
}
