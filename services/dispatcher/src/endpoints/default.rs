//! The default endpoint of an organization: for clients of older trigger APIs, which have one URL per organization
//! (`POST /webhook/config`), and for `webhook_url` of the organization, which is its URL.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http_server::{FieldError, JsonBody, Problem, Timestamp};
use runtime::seal::SealingKey;
use schemas::ids::OrgId;
use serde::Deserialize;
use serde_json::Value;
use sqlx::postgres::PgConnection;
use tenancy::audit::{self, Actor, Origin};
use tenancy::{DefaultEndpoint, SetDefaultEndpoint};
use utoipa::ToSchema;

use super::EndpointsState;
use super::bodies::ConfiguredBody;
use super::changes;
use super::edit::{apply, new_endpoint};
use super::input::{self, EndpointPatch};
use super::managers::EndpointWriter;
use super::notes;
use super::problems::{failed, invalid, refused};
use super::store::{self, CreateError, StoredEndpoint};
use crate::attempt::egress::EgressPolicy;
use crate::attempt::sign::Secret;
use crate::config::EndpointSettings;

/// The URL to deliver to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookUrl, example = json!({"webhook_url": "https://shop.example/hook"}))]
pub(super) struct Configuration {
    /// http or https, without user-info. Private and reserved addresses are refused.
    #[schema(value_type = String)]
    webhook_url: Value,
}

/// Set the URL of the default endpoint
///
/// For clients of older trigger APIs, which have one URL per organization: creates the default endpoint, or changes its
/// URL. These clients cannot enable an endpoint, so setting the URL does.
#[utoipa::path(
    post, path = "/webhook/config", operation_id = "configure_webhook", tag = "Webhooks",
    request_body = Configuration,
    responses((status = 200, description = "The default endpoint.", body = ConfiguredBody)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["invalid_endpoint", "too_many_endpoints"]))),
)]
pub(super) async fn configure(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    JsonBody(body): JsonBody<Configuration>,
) -> Result<Json<ConfiguredBody>, Problem> {
    let url = read_url(&body.webhook_url, &state.policy.of(caller.org_id))?;
    let mut transaction = runtime::postgres::begin(&state.pool).await.map_err(failed)?;
    changes::count(&mut transaction, caller.org_id, state.max_changes_per_hour).await?;
    let set = set(&mut transaction, &state.sealing, caller.org_id, url).await.map_err(refused)?;
    let (change, detail) = set.entry();
    audit::append(&mut transaction, Actor::Key(caller.key_id), Some(&origin), change, &detail).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let endpoint = set.endpoint;
    Ok(Json(ConfiguredBody {
        success: true,
        organization_id: endpoint.org_id,
        webhook_url: endpoint.url,
        endpoint_id: endpoint.id,
        updated_at: Timestamp(endpoint.updated_at),
        message: "events are delivered to this URL",
        secret: set.secret.map(|secret| secret.to_text()),
    }))
}

/// For the routes of organizations.
pub fn default_endpoint(sealing: SealingKey, settings: EndpointSettings) -> SetDefaultEndpoint {
    let shared = Arc::new((sealing, settings));
    Arc::new(move |conn, org_id, url| {
        let shared = Arc::clone(&shared);
        Box::pin(async move {
            let (sealing, settings) = &*shared;
            let url = read_url(&Value::from(url), &settings.policy.of(org_id))?;
            changes::count(conn, org_id, settings.max_changes_per_hour).await?;
            let set = set(conn, sealing, org_id, url).await.map_err(|error| match error {
                // The caller of this route need not be of the organization.
                CreateError::Erased => Problem::not_found(),
                other => refused(other),
            })?;
            let (change, detail) = set.entry();
            let secret = set.secret.map(|secret| secret.to_text());
            Ok(DefaultEndpoint { url: set.endpoint.url, secret, change, detail })
        })
    })
}

fn read_url(value: &Value, policy: &EgressPolicy) -> Result<String, Problem> {
    input::url(value, policy).map_err(|reason| invalid(vec![FieldError::new("webhook_url", reason)]))
}

struct Set {
    endpoint: StoredEndpoint,
    /// Of a new endpoint.
    secret: Option<Secret>,
}

impl Set {
    fn entry(&self) -> (audit::Change, Value) {
        let action = if self.secret.is_some() { "endpoint.created" } else { "endpoint.changed" };
        (notes::change(action, &self.endpoint), notes::detail(&self.endpoint))
    }
}

/// Creates the default endpoint, or changes its URL and keeps its secret. Clients of older trigger APIs cannot enable
/// an endpoint, so setting the URL does. Changes are serialized: concurrent calls create one endpoint.
async fn set(conn: &mut PgConnection, sealing: &SealingKey, org_id: OrgId, url: String) -> Result<Set, CreateError> {
    let version = store::raise_version(conn).await?;
    if let Some(id) = store::default_of(conn, version, org_id).await? {
        let patch = EndpointPatch { url: Some(url.clone()), enabled: Some(true), ..EndpointPatch::default() };
        let change = |endpoint: &mut _| apply(endpoint, patch, sealing);
        if let Some(endpoint) = store::update(conn, version, org_id, id, change).await? {
            return Ok(Set { endpoint, secret: None });
        }
    }
    let (mut endpoint, secret) = new_endpoint(sealing, org_id, url);
    endpoint.is_default = true;
    let endpoint = store::create(conn, version, &endpoint).await?;
    Ok(Set { endpoint, secret: Some(secret) })
}
