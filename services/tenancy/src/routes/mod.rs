//! The HTTP routes of tenancy.

mod keys;
mod organizations;
mod reply;
mod signup;
mod validation;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::{delete, get, post};
use http::Method;
use http_server::Routes;

use crate::auth::Authenticator;
use crate::operator::OperatorToken;
use crate::service::Tenancy;

/// The routes, relative to their mount.
pub fn routes(tenancy: Tenancy) -> Routes {
    let router = Router::new()
        .route("/organizations", post(organizations::create).get(organizations::list))
        .route("/organizations/{id}", get(organizations::show).delete(organizations::erase))
        .route("/organizations/{id}/keys", post(keys::create_for_operator))
        .route("/keys", post(keys::create).get(keys::show_own))
        .route("/keys/list", get(keys::list))
        .route("/keys/{id}", delete(keys::revoke))
        .route("/keys/generate", post(signup::generate))
        .with_state(tenancy);
    Routes::from(router).with_query(Method::GET, "/organizations", organizations::PARAMETERS)
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
