//! Entries of the audit log about endpoints.

use http_server::Timestamp;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use tenancy::audit::{self, Actor, Change, Origin};

use super::store::StoredEndpoint;

/// Appends an entry as the last statement of the transaction of its change.
pub(crate) async fn note(
    conn: &mut PgConnection,
    actor: Actor,
    origin: Option<&Origin>,
    action: &'static str,
    endpoint: &StoredEndpoint,
) -> Result<(), sqlx::Error> {
    audit::append(conn, actor, origin, change(action, endpoint), &detail(endpoint)).await
}

pub(super) fn change(action: &'static str, endpoint: &StoredEndpoint) -> Change {
    Change { org_id: endpoint.org_id, action, target: endpoint.id.as_uuid() }
}

/// The endpoint after the change, without its secrets: neither the signing secret nor the headers, and of `auth` only
/// what is shown.
pub(super) fn detail(endpoint: &StoredEndpoint) -> Value {
    json!({
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "filter": endpoint.filter,
        "description": endpoint.description,
        "has_headers": endpoint.sealed_headers.is_some(),
        "auth": endpoint.credentials.auth,
        "compat_signature": endpoint.credentials.compat_signature,
        "ordered": endpoint.ordered,
        "ack_on_success": endpoint.ack_on_success,
        "max_in_flight": endpoint.max_in_flight,
        "rate_limit_per_second": endpoint.rate_limit_per_second,
        "timeout_seconds": endpoint.timeout_seconds,
        "retry_schedule": endpoint.retry_schedule,
        "batch": endpoint.batch,
        "enabled": endpoint.enabled,
        "disabled_reason": endpoint.disabled_reason,
        "is_default": endpoint.is_default,
        "previous_secret_expires_at": endpoint.previous_expires_at.map(Timestamp),
    })
}
