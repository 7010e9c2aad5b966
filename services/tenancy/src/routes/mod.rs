//! The HTTP routes of tenancy.

mod audit;
mod change_keys;
mod keys;
mod managers;
mod organizations;
mod reply;
mod signup;
mod validation;

use axum::extract::FromRef;
use http_server::Routes;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Authenticator;
use crate::operator::OperatorToken;
use crate::service::Tenancy;

/// The routes, relative to their mount.
pub fn routes(tenancy: Tenancy) -> Routes {
    described().with_state(tenancy).into()
}

/// What the routes say of themselves.
pub fn openapi() -> OpenApi {
    described().into_openapi()
}

fn described() -> OpenApiRouter<Tenancy> {
    OpenApiRouter::new()
        .routes(routes!(organizations::create, organizations::list))
        .routes(routes!(organizations::show, organizations::patch, organizations::erase))
        .routes(routes!(keys::create_for_operator))
        .routes(routes!(keys::create, keys::show_own))
        .routes(routes!(keys::list))
        .routes(routes!(change_keys::rotate))
        .routes(routes!(change_keys::patch, change_keys::revoke))
        .routes(routes!(signup::generate))
        .routes(routes!(audit::list))
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
