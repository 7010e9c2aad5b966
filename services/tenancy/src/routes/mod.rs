//! The HTTP routes of this slice: which exist, and what their handlers share. What they do lives in the modules below.

mod keys;
mod organizations;
mod reply;
mod signup;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::{delete, get, post};
use platform::http::{FieldError, Problem};

use crate::auth::Authenticator;
use crate::grant::Fault;
use crate::operator::OperatorToken;
use crate::{Tenancy, grant};

/// The routes, relative to their mount.
pub fn routes(tenancy: Tenancy) -> Router {
    Router::new()
        .route("/organizations", post(organizations::create).get(organizations::list))
        .route("/organizations/{id}", get(organizations::show).delete(organizations::erase))
        .route("/organizations/{id}/keys", post(keys::create_for_operator))
        .route("/keys", post(keys::create).get(keys::show_own))
        .route("/keys/list", get(keys::list))
        .route("/keys/{id}", delete(keys::revoke))
        .route("/keys/generate", post(signup::generate))
        .with_state(tenancy)
}

impl FromRef<Tenancy> for Authenticator {
    fn from_ref(tenancy: &Tenancy) -> Self {
        tenancy.authenticator.clone()
    }
}

impl FromRef<Tenancy> for OperatorToken {
    fn from_ref(tenancy: &Tenancy) -> Self {
        tenancy.operator_token.clone()
    }
}

fn check_name(field: &'static str, name: &str) -> Result<(), Problem> {
    if grant::is_name(name) {
        return Ok(());
    }
    Err(invalid(Fault { field, reason: "1 to 255 characters, no control characters, no blank at either end" }))
}

fn invalid(fault: Fault) -> Problem {
    Problem::invalid("invalid_request", format!("{}: {}", fault.field, fault.reason)).with_details(blame(fault))
}

fn forbidden(fault: Fault) -> Problem {
    Problem::forbidden(format!("{}: {}", fault.field, fault.reason)).with_details(blame(fault))
}

fn blame(fault: Fault) -> Vec<FieldError> {
    vec![FieldError { field: fault.field.to_owned(), reason: fault.reason.to_owned() }]
}
