//! Mounting one set of routes at `/v1`, `/` and `/api`.

use std::time::Duration;

use axum::Router;
use axum::middleware::map_response;
use axum::response::Response;
use http::StatusCode;

use super::cors::{CorsOrigins, strict_transport_security};
use super::observe::SlowThresholds;
use super::problem::Problem;
use super::request_layer::RequestLayer;
use super::routes::Routes;

/// When a request is logged as slow.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// A request that takes longer is logged as a warning. Default 100 ms.
    pub slow_warn: Duration,
    /// A request that takes longer is logged as an error. Default 1 s.
    pub slow_error: Duration,
    /// `max-age` of `Strict-Transport-Security`, seconds; 0, the default: the header is not sent.
    pub hsts_max_age_seconds: u64,
    /// Origins whose pages may use the routes. Default: none.
    pub cors: CorsOrigins,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            slow_warn: Duration::from_millis(100),
            slow_error: Duration::from_secs(1),
            hsts_max_age_seconds: 0,
            cors: CorsOrigins::None,
        }
    }
}

impl MountOptions {
    pub(super) fn slow_thresholds(&self) -> SlowThresholds {
        SlowThresholds { warn: self.slow_warn, error: self.slow_error }
    }
}

/// Mounts the routes of `api` (relative, such as `/events`) at `/v1`, `/` and `/api`, each inside the request layer.
/// Each refuses a query parameter that it does not declare. `api` must have no fallback and no path that starts with
/// `/v1` or `/api`. Other routers may be merged into the result.
pub fn mount(api: impl Into<Routes>, options: MountOptions) -> Router {
    let api = api.into().checked();
    let routes = Router::new()
        .nest("/v1", api.clone())
        .nest("/api", api.clone())
        .merge(api)
        .fallback(|| async { Problem::from_status(StatusCode::NOT_FOUND) });
    with_request_layer(routes, &options)
}

/// Wraps each route in the request layer.
pub(super) fn with_request_layer(routes: Router, options: &MountOptions) -> Router {
    // `with_state` turns handlers into services. Without it, axum would create the layer again for every request, and
    // the cached metrics would be lost.
    let routes: Router = routes.with_state(());
    // Inside the request layer, which then sees the answer to a preflight too.
    let routes = options.cors.apply(routes).layer(RequestLayer { slow: options.slow_thresholds() });
    match strict_transport_security(options.hsts_max_age_seconds) {
        None => routes,
        Some((name, value)) => routes.layer(map_response(move |mut response: Response| {
            response.headers_mut().insert(name.clone(), value.clone());
            std::future::ready(response)
        })),
    }
}
