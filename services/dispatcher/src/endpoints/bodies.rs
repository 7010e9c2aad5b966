//! Endpoints in JSON: the responses, and for OpenAPI the requests, which `input` reads.

use http_server::Timestamp;
use schemas::ids::{EndpointId, OrgId, ReplayId};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::compat_signature::ShownCompatSignature;
use super::credential_bodies::{NewAuthBody, NewCompatSignatureBody};
use super::receiver_auth::ShownAuth;
use super::store::StoredEndpoint;
use crate::attempt::sign::Secret;
use crate::batch::settings::{BatchFormat, BatchSettings};

/// An endpoint. Its headers, and the secrets of `auth` and `compat_signature`, are write-only.
#[derive(Serialize, ToSchema)]
#[schema(as = Endpoint, example = json!({
    "id": "0192f0c1-2345-7abc-8def-0123456789ad",
    "url": "https://shop.example/hook",
    "event_types": ["order.*"],
    "filter": {"path": "order.total", "gte": 100},
    "description": null,
    "auth": {"type": "basic", "username": "triggers"},
    "compat_signature": {"format": "sha256-hex", "header": "x-hub-signature-256", "has_secret": false},
    "ordered": false,
    "ack_on_success": false,
    "max_in_flight": null,
    "rate_limit_per_second": null,
    "timeout_seconds": 10,
    "retry_schedule": [30, 120, 600, 3600],
    "enabled": true,
    "status": "enabled",
    "disabled_reason": null,
    "disabled_at": null,
    "batch": {"max_events": 500, "max_bytes": 1048576, "max_wait_ms": 100, "format": "json"},
    "created_at": "2026-11-21T09:00:00.123Z",
    "updated_at": "2026-11-21T09:00:00.123Z"
}))]
pub(super) struct EndpointBody {
    id: EndpointId,
    /// Normalized.
    url: String,
    /// Patterns; empty: all events.
    event_types: Vec<String>,
    /// Conditions on the payload, as they were given; null: none.
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    description: Option<String>,
    /// How its webhooks authenticate, beside their signature. Null: not at all.
    auth: Option<ShownAuth>,
    /// Null: only our signature.
    compat_signature: Option<ShownCompatSignature>,
    /// Whether events with the same `ordering_key` are delivered one after the other, in the order of the log.
    ordered: bool,
    /// Whether events are acknowledged when all endpoints that they matched have accepted them.
    ack_on_success: bool,
    /// Null: the default of the system.
    max_in_flight: Option<i32>,
    /// Webhooks per second; null: no limit.
    rate_limit_per_second: Option<i32>,
    timeout_seconds: i32,
    /// Delays before the retries, seconds.
    retry_schedule: Vec<i32>,
    enabled: bool,
    /// `enabled` or `disabled`.
    status: &'static str,
    /// Why it is disabled: `requested`, `gone` (it answered 410), or `failing` (all attempts failed for too long).
    disabled_reason: Option<String>,
    /// Since when it is disabled; null while it is enabled.
    disabled_at: Option<Timestamp>,
    /// Batched delivery; null: each webhook has one event.
    #[schema(value_type = Option<ShownBatchSettings>)]
    batch: Option<Value>,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// Signs its webhooks. Only in the response to its creation: keep it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    secret: Option<String>,
    /// The replay of its backfill. Only in the response to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    replay_id: Option<ReplayId>,
}

impl EndpointBody {
    pub(super) fn new(endpoint: StoredEndpoint) -> Self {
        Self {
            id: endpoint.id,
            url: endpoint.url,
            event_types: endpoint.event_types,
            filter: endpoint.filter,
            description: endpoint.description,
            auth: endpoint.credentials.auth,
            compat_signature: endpoint.credentials.compat_signature,
            ordered: endpoint.ordered,
            ack_on_success: endpoint.ack_on_success,
            max_in_flight: endpoint.max_in_flight,
            rate_limit_per_second: endpoint.rate_limit_per_second,
            timeout_seconds: endpoint.timeout_seconds,
            retry_schedule: endpoint.retry_schedule,
            enabled: endpoint.enabled,
            status: if endpoint.enabled { "enabled" } else { "disabled" },
            disabled_reason: endpoint.disabled_reason,
            disabled_at: endpoint.disabled_at.map(Timestamp),
            batch: endpoint.batch,
            created_at: Timestamp(endpoint.created_at),
            updated_at: Timestamp(endpoint.updated_at),
            secret: None,
            replay_id: None,
        }
    }

    /// With the replay of its backfill.
    pub(super) fn with_replay(self, replay_id: Option<ReplayId>) -> Self {
        Self { replay_id, ..self }
    }

    /// With the secret, which is shown only this once.
    pub(super) fn revealing(endpoint: StoredEndpoint, secret: &Secret) -> Self {
        Self { secret: Some(secret.to_text()), ..Self::new(endpoint) }
    }
}

/// How one webhook carries several events. Each member is always there.
#[derive(ToSchema)]
#[schema(as = EndpointBatchSettings, example = json!({
    "max_events": 500, "max_bytes": 1048576, "max_wait_ms": 100, "format": "json"
}))]
#[expect(dead_code, reason = "describes what the row of an endpoint has")]
pub(super) struct ShownBatchSettings {
    /// Most events of one request.
    max_events: u32,
    /// Largest body of one request, bytes. An event that is larger goes alone.
    max_bytes: u32,
    /// How long the first event waits for others, milliseconds.
    max_wait_ms: u32,
    format: BatchFormat,
}

/// All endpoints of an organization.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"endpoints": []}))]
pub(super) struct EndpointList {
    pub(super) endpoints: Vec<EndpointBody>,
}

/// The default endpoint, for clients of older trigger APIs.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookConfiguration, example = json!({
    "success": true,
    "organization_id": "0192f0c1-2345-7abc-8def-0123456789ae",
    "webhook_url": "https://shop.example/hook",
    "endpoint_id": "0192f0c1-2345-7abc-8def-0123456789ad",
    "updated_at": "2026-11-21T09:00:00.123Z",
    "message": "events are delivered to this URL"
}))]
pub(super) struct ConfiguredBody {
    /// Always true.
    pub(super) success: bool,
    pub(super) organization_id: OrgId,
    pub(super) webhook_url: String,
    pub(super) endpoint_id: EndpointId,
    pub(super) updated_at: Timestamp,
    pub(super) message: &'static str,
    /// Signs its webhooks. Only when the endpoint was created: keep it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) secret: Option<String>,
}

/// Seconds before one retry.
#[derive(ToSchema)]
#[schema(minimum = 1, maximum = 86400, example = 30)]
#[expect(dead_code, reason = "describes a member that input reads")]
pub(super) struct RetryDelay(u32);

/// An endpoint to create. `null` is the same as absent.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEndpoint, example = json!({
    "url": "https://shop.example/hook",
    "event_types": ["order.*"],
    "auth": {"type": "basic", "username": "triggers", "password": "a long and random text"},
    "compat_signature": {"format": "sha256-hex", "header": "x-hub-signature-256"}
}))]
#[expect(dead_code, reason = "describes a body that input reads")]
pub(super) struct NewEndpointBody {
    /// http or https, without user-info. Private and reserved addresses are refused.
    #[schema(min_length = 1)]
    url: String,
    /// Types of events, or patterns: `order.*` for those that start with `order.`, `*` for all. Empty or absent: all.
    #[schema(max_items = 100)]
    event_types: Option<Vec<String>>,
    /// Conditions on the payload. One of `{"all": [FILTER, …]}`, `{"any": [FILTER, …]}`, `{"not": FILTER}`, or a
    /// condition `{"path": "order.items.0.sku", OPERATOR: VALUE, …}`, all of whose operators must hold: `exists`,
    /// `equals`, `in`, `prefix`, `gt`, `gte`, `lt`, `lte`. A path may also be a list of names, for names with a dot. At
    /// most 8 KiB, 64 conditions and 8 levels. Numbers are compared exactly: 1 equals 1.0. In a payload that is no JSON
    /// object, and in binary data, no condition holds, so a `not` of one does. Null or absent: none.
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    #[schema(max_length = 1000)]
    description: Option<String>,
    /// Headers of its webhooks, at most 20 and 4 KiB; write-only.
    headers: Option<std::collections::HashMap<String, String>>,
    /// How its webhooks authenticate to the receiver. Types that set `Authorization` exclude a header of that name.
    auth: Option<NewAuthBody>,
    /// A second signature beside ours.
    compat_signature: Option<NewCompatSignatureBody>,
    /// Deliver events with the same `ordering_key` one after the other, in the order of the log; those without one
    /// share a lane. A failing event holds back its lane until its last attempt. Default false.
    ordered: Option<bool>,
    /// Acknowledge an event when this and all other endpoints that it matched have accepted it. Default false.
    ack_on_success: Option<bool>,
    /// Webhooks at the same time.
    #[schema(minimum = 1, maximum = 100)]
    max_in_flight: Option<u32>,
    /// Webhooks per second, first attempts and retries together. While the endpoint answers 429 or 503, or not at all,
    /// it gets fewer. Null or absent: no limit.
    #[schema(minimum = 1, maximum = 1000)]
    rate_limit_per_second: Option<u32>,
    /// Default 10.
    #[schema(minimum = 1, maximum = 30)]
    timeout_seconds: Option<u32>,
    /// Delays before the retries, seconds. Default 30, 120, 600, 3600.
    #[schema(max_items = 20)]
    retry_schedule: Option<Vec<RetryDelay>>,
    enabled: Option<bool>,
    /// Events that were accepted at this time or later are delivered too, as far as the inbox keeps them, acknowledged
    /// ones too: a time, or the `position` of the first event. Null or absent: none that was accepted before.
    backfill_from: Option<String>,
    /// One webhook carries several events: a JSON array, with one signature and one answer for all of them. `{}` has
    /// the defaults. Null or absent: each webhook has one event.
    batch: Option<BatchSettings>,
}

/// What to change. Absent members are unchanged; null is for those that may be empty.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointPatch, example = json!({"event_types": ["order.*", "refund.created"]}))]
#[expect(dead_code, reason = "describes a body that input reads")]
pub(super) struct EndpointPatchBody {
    /// http or https, without user-info. Private and reserved addresses are refused.
    #[schema(required = false, min_length = 1)]
    url: String,
    /// Types of events, or patterns: `order.*` for those that start with `order.`, `*` for all. Empty: all.
    #[schema(required = false, max_items = 100)]
    event_types: Vec<String>,
    /// As for a new endpoint. Null: none.
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    /// Null: none.
    #[schema(max_length = 1000)]
    description: Option<String>,
    /// Headers of its webhooks, at most 20 and 4 KiB; write-only. They replace the old ones.
    #[schema(required = false)]
    headers: std::collections::HashMap<String, String>,
    /// Replaces the old one as a whole. Null: none. Another scheme, host or port of `url` removes it, as it removes
    /// `headers`, unless it is given too.
    auth: Option<NewAuthBody>,
    /// Replaces the old one as a whole. Null: none.
    compat_signature: Option<NewCompatSignatureBody>,
    /// As for a new endpoint. It holds for events that are accepted after the response.
    #[schema(required = false)]
    ordered: bool,
    /// As for a new endpoint. It holds for events that are accepted after the response.
    #[schema(required = false)]
    ack_on_success: bool,
    /// Webhooks at the same time. Null: the default of the system.
    #[schema(minimum = 1, maximum = 100)]
    max_in_flight: Option<u32>,
    /// Webhooks per second. Null: no limit.
    #[schema(minimum = 1, maximum = 1000)]
    rate_limit_per_second: Option<u32>,
    #[schema(required = false, minimum = 1, maximum = 30)]
    timeout_seconds: u32,
    /// Delays before the retries, seconds.
    #[schema(required = false, max_items = 20)]
    retry_schedule: Vec<RetryDelay>,
    #[schema(required = false)]
    enabled: bool,
    /// Replaces all settings of batched delivery. Null: each webhook has one event.
    batch: Option<BatchSettings>,
}
