//! The default endpoint of an organization, whose URL is the organization's `webhook_url`. The slice of webhooks stores
//! it; it gives the routes of organizations the function that sets it.

use std::pin::Pin;
use std::sync::Arc;

use http_server::Problem;
use schemas::ids::OrgId;
use serde_json::Value;
use sqlx::postgres::PgConnection;

use crate::audit::Change;

/// A default endpoint whose URL was set.
pub struct DefaultEndpoint {
    /// Normalized.
    pub url: String,
    /// The text of the signing secret, if the endpoint is new.
    pub secret: Option<String>,
    /// The audit entry, which the caller appends as the last statement of its transaction.
    pub change: Change,
    pub detail: Value,
}

/// Creates the default endpoint of an organization or changes its URL, within the transaction of the caller. Invalid
/// URLs are refused. It locks the endpoints, then the organization.
pub type SetDefaultEndpoint =
    Arc<dyn for<'a> Fn(&'a mut PgConnection, OrgId, &'a str) -> SettingDefaultEndpoint<'a> + Send + Sync>;

/// The outcome of [`SetDefaultEndpoint`].
pub type SettingDefaultEndpoint<'a> = Pin<Box<dyn Future<Output = Result<DefaultEndpoint, Problem>> + Send + 'a>>;
