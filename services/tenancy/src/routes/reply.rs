//! Organizations and keys in JSON.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use http_server::Timestamp;
use schemas::ids::{KeyId, OrgId};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::default_endpoint::DefaultEndpoint;
use crate::keys::StoredKey;
use crate::organizations::Organization;
use crate::role::Role;
use crate::tier::Tier;

/// An organization in the OpenAPI document.
pub(super) fn organization_example() -> Value {
    json!({
        "id": "0192f0c1-2345-7abc-8def-0123456789ae",
        "name": "Shop",
        "tier": "pro",
        "rate_limit_per_minute": 1000,
        "webhook_url": null,
        "status": "active",
        "created_at": "2026-11-21T09:00:00.123Z"
    })
}

/// An organization.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Organization, example = organization_example)]
pub(super) struct OrganizationReply {
    id: OrgId,
    name: String,
    tier: Tier,
    /// Its own limit, or that of its tier.
    rate_limit_per_minute: u32,
    /// URL of its default endpoint.
    webhook_url: Option<String>,
    /// Signs the webhooks of a default endpoint that this request has created. Only then: keep it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    webhook_secret: Option<String>,
    /// `active`; after its deletion `erasing`, then `erased`.
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

/// A key in the OpenAPI document.
pub(super) fn key_example() -> Value {
    json!({
        "id": "0192f0c1-2345-7abc-8def-0123456789af",
        "name": "shop",
        "role": "produce",
        "prefix": "zap_live_8Qs2",
        "environment": "live",
        "event_types": null,
        "rate_limit_per_minute": null,
        "content_dedup": false,
        "created_at": "2026-11-21T09:00:00.123Z",
        "expires_at": null,
        "revoked_at": null
    })
}

/// A key, as its organization sees it; the clear text only in the response to its creation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key, example = key_example)]
pub(super) struct KeyReply {
    id: KeyId,
    /// The key itself. Only in the response to its creation: keep it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key: Option<String>,
    name: String,
    role: Role,
    /// Its first characters.
    prefix: String,
    /// `live` or `test`.
    environment: String,
    /// Only these types; null: all.
    event_types: Option<Vec<String>>,
    /// Null: the limit of the organization.
    rate_limit_per_minute: Option<u32>,
    /// Whether equal content within 24 hours is a duplicate.
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
