//! Endpoints in JSON, and the problems of their routes.

use http::StatusCode;
use http_server::{FieldError, Problem, Timestamp};
use runtime::postgres::{SqlEffect, effect};
use serde_json::{Value, json};
use tracing::{error, warn};

use super::store::{CreateError, StoredEndpoint};
use crate::attempt::sign::Secret;

/// Headers and secret are write-only. The secret is returned once, in the response to the creation.
pub(super) fn to_json(endpoint: &StoredEndpoint, secret: Option<&Secret>) -> Value {
    let mut value = json!({
        "id": endpoint.id,
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "description": endpoint.description,
        "max_in_flight": endpoint.max_in_flight,
        "timeout_seconds": endpoint.timeout_seconds,
        "retry_schedule": endpoint.retry_schedule,
        "enabled": endpoint.enabled,
        "status": if endpoint.enabled { "enabled" } else { "disabled" },
        "disabled_reason": endpoint.disabled_reason,
        "created_at": Timestamp(endpoint.created_at),
        "updated_at": Timestamp(endpoint.updated_at),
    });
    if let Some(secret) = secret {
        value["secret"] = Value::from(secret.to_text());
    }
    value
}

pub(super) fn invalid(details: Vec<FieldError>) -> Problem {
    let text: Vec<String> = details.iter().map(|error| format!("{} {}", error.field, error.reason)).collect();
    Problem::invalid("invalid_endpoint", text.join("; ")).with_details(details)
}

pub(super) fn refused(error: CreateError) -> Problem {
    match error {
        CreateError::TooMany => Problem::new(StatusCode::CONFLICT, "too_many_endpoints", error.to_string()),
        CreateError::Erased => Problem::unauthorized(error.to_string()),
        CreateError::Sql(error) => failed(error),
    }
}

pub(super) fn failed(error: sqlx::Error) -> Problem {
    match effect(&error) {
        SqlEffect::Unavailable | SqlEffect::Retry => {
            warn!(%error, "Database unavailable; refusing a request to an endpoint route.");
            Problem::unavailable("endpoints cannot be read or changed at the moment", 1)
        }
        SqlEffect::Data | SqlEffect::Fatal => {
            error!(%error, "Request to an endpoint route failed.");
            Problem::internal()
        }
    }
}
