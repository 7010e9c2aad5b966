//! The HTTP routes of tenancy.

mod audit;
mod change_keys;
mod keys;
mod managers;
mod organizations;
mod reply;
mod signup;
mod validation;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::{get, patch, post};
use http::Method;
use http_server::Routes;

use crate::auth::Authenticator;
use crate::operator::OperatorToken;
use crate::service::Tenancy;

/// The routes, relative to their mount.
pub fn routes(tenancy: Tenancy) -> Routes {
    let router = Router::new()
        .route("/organizations", post(organizations::create).get(organizations::list))
        .route("/organizations/{id}", get(organizations::show).patch(organizations::patch).delete(organizations::erase))
        .route("/organizations/{id}/keys", post(keys::create_for_operator))
        .route("/keys", post(keys::create).get(keys::show_own))
        .route("/keys/list", get(keys::list))
        .route("/keys/rotate", post(change_keys::rotate))
        .route("/keys/{id}", patch(change_keys::patch).delete(change_keys::revoke))
        .route("/keys/generate", post(signup::generate))
        .route("/audit", get(audit::list))
        .with_state(tenancy);
    Routes::from(router).with_query(Method::GET, "/organizations", organizations::PARAMETERS).with_query(
        Method::GET,
        "/audit",
        audit::PARAMETERS,
    )
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
