//! Organizations and keys in JSON.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use http_server::Timestamp;
use schemas::ids::{KeyId, OrgId};
use serde::Serialize;

use crate::default_endpoint::DefaultEndpoint;
use crate::keys::StoredKey;
use crate::organizations::Organization;
use crate::role::Role;
use crate::tier::Tier;

/// An organization, as the operator sees it.
#[derive(Debug, Serialize)]
pub(super) struct OrganizationReply {
    id: OrgId,
    name: String,
    tier: Tier,
    rate_limit_per_minute: u32,
    webhook_url: Option<String>,
    /// The signing secret of a default endpoint that this request has created.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_secret: Option<String>,
    status: String,
    created_at: Timestamp,
}

impl OrganizationReply {
    /// After a change, which may have set the default endpoint.
    pub(super) fn new(organization: Organization, endpoint: Option<DefaultEndpoint>) -> Self {
        Self { webhook_secret: endpoint.and_then(|endpoint| endpoint.secret), ..Self::from(organization) }
    }
}

impl From<Organization> for OrganizationReply {
    fn from(organization: Organization) -> Self {
        Self {
            id: organization.id,
            name: organization.name,
            tier: organization.tier,
            rate_limit_per_minute: organization.rate_limit_per_minute,
            webhook_url: organization.webhook_url,
            webhook_secret: None,
            status: organization.status,
            created_at: Timestamp(organization.created_at),
        }
    }
}

/// A key, as its organization sees it; the clear text only in the response to its creation.
#[derive(Debug, Serialize)]
pub(super) struct KeyReply {
    id: KeyId,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    name: String,
    role: Role,
    prefix: String,
    environment: String,
    event_types: Option<Vec<String>>,
    /// Null: the limit of the organization.
    rate_limit_per_minute: Option<u32>,
    content_dedup: bool,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

impl KeyReply {
    /// With the clear text, which is shown only this once.
    pub(super) fn revealing(stored: StoredKey, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..Self::from(stored) }
    }
}

impl From<StoredKey> for KeyReply {
    fn from(stored: StoredKey) -> Self {
        Self {
            id: stored.id,
            key: None,
            name: stored.name,
            role: stored.grant.role,
            prefix: stored.prefix,
            environment: stored.environment,
            event_types: stored.grant.event_types,
            rate_limit_per_minute: stored.grant.rate_limit_per_minute,
            content_dedup: stored.content_dedup,
            created_at: Timestamp(stored.created_at),
            expires_at: stored.grant.expires_at.map(Timestamp),
            revoked_at: stored.revoked_at.map(Timestamp),
        }
    }
}

/// 201 with a key in the body.
pub(super) fn created_secret(body: impl Serialize) -> Response {
    secret(StatusCode::CREATED, body)
}

/// A body with a key; caches must not store it.
pub(super) fn secret(status: StatusCode, body: impl Serialize) -> Response {
    (status, [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(body)).into_response()
}
