//! `/openapi.json` and the page at `/docs`, whose files are inside the binary.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::{HeaderValue, header};
use serde_json::Value;
use tracing::error;
use utoipa_swagger_ui::Config;

use super::super::mount::{MountOptions, with_request_layer};
use super::super::problem::Problem;
use super::super::routes::Routes;

/// The page may load nothing from elsewhere, run no script but its own files, and not be framed.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
);

/// Serves the document at `/openapi.json` and a page that shows it at `/docs`.
pub fn description_routes(document: &Value) -> Router {
    let body = Bytes::from(document.to_string());
    let config = Arc::new(Config::from("/openapi.json").validator_url("none").try_it_out_enabled(true));
    let routes = Router::new()
        .route("/openapi.json", get(async move || ([(header::CONTENT_TYPE, "application/json")], body.clone())))
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async |State(config): State<_>| file("", config)))
        .route("/docs/{*file}", get(async |State(config): State<_>, Path(name): Path<String>| file(&name, config)))
        .with_state(config);
    with_request_layer(Routes::from(routes).checked(), &MountOptions::default())
}

fn file(name: &str, config: Arc<Config<'static>>) -> Result<Response, Problem> {
    let found = utoipa_swagger_ui::serve(name, config).map_err(|error| {
        error!(%error, "A file of the page at /docs cannot be served.");
        Problem::internal()
    })?;
    let found = found.ok_or_else(Problem::not_found)?;
    let mut response = Body::from(found.bytes.into_owned()).into_response();
    let content_type = HeaderValue::try_from(found.content_type).map_err(|_| Problem::internal())?;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    Ok(response)
}
