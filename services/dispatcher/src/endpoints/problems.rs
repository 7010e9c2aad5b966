//! The problems of the routes of endpoints.

use http::StatusCode;
use http_server::{FieldError, Problem};
use runtime::postgres::{SqlEffect, effect};
use tracing::{error, warn};

use super::store::CreateError;

pub(super) fn invalid(details: Vec<FieldError>) -> Problem {
    let text: Vec<String> = details.iter().map(|error| format!("{} {}", error.field, error.reason)).collect();
    Problem::invalid("invalid_endpoint", text.join("; ")).with_details(details)
}

pub(super) fn refused(error: CreateError) -> Problem {
    match error {
        CreateError::TooMany => Problem::new(StatusCode::CONFLICT, "too_many_endpoints", error.to_string()),
        CreateError::Erased => tenancy::Refusal::Unknown.into(),
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
