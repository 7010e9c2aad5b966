//! Mounting one set of routes at `/v1`, `/` and `/api`.

use std::time::Duration;

use axum::Router;
use http::StatusCode;

use super::edge::EdgeLayer;
use super::observe::SlowAfter;
use super::problem::Problem;

/// Knobs of the layer around the routes.
#[derive(Debug, Clone, Copy)]
pub struct MountOptions {
    /// A request that takes longer is logged as a warning. Default 100 ms.
    pub slow_warn: Duration,
    /// A request that takes longer is logged as an error. Default 1 s.
    pub slow_error: Duration,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { slow_warn: Duration::from_millis(100), slow_error: Duration::from_secs(1) }
    }
}

impl MountOptions {
    pub(super) fn slow_after(&self) -> SlowAfter {
        SlowAfter { warn: self.slow_warn, error: self.slow_error }
    }
}

/// The routes of `api` (relative, such as `/events`) under all three mounts, with everything around them that the
/// contract asks of every answer. `api` brings no fallback of its own and no path that begins with `/v1` or `/api`.
/// Other routers may be merged into the result.
pub fn mount(api: Router, options: MountOptions) -> Router {
    let routes = Router::new()
        .nest("/v1", api.clone())
        .nest("/api", api.clone())
        .merge(api)
        .fallback(|| async { Problem::from_status(StatusCode::NOT_FOUND) });
    with_edge(routes, options)
}

/// Puts the layer around each route.
pub(super) fn with_edge(routes: Router, options: MountOptions) -> Router {
    // Handlers are turned into services first: otherwise the layer would be created again, without its metrics, for every
    // request.
    let routes: Router = routes.with_state(());
    routes.layer(EdgeLayer { slow: options.slow_after() })
}
