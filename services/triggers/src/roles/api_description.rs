//! The OpenAPI document of the whole API.

use serde_json::Value;

/// What `/openapi.json` serves, and `schemas/openapi.json` has.
pub(crate) fn api_description() -> Value {
    let slices = [
        ingest::openapi(),
        materializer::openapi(),
        dispatcher::openapi(),
        dispatcher::delivery_openapi(),
        tenancy::openapi(),
        http_server::probe_openapi(),
    ];
    http_server::describe(slices, env!("CARGO_PKG_VERSION"))
}
