//! The OpenAPI document: what each route says of itself, completed with what all of them have in common (errors,
//! headers, how a key is sent), and the routes that serve it.

mod complete;
mod error_codes;
mod pages;

use serde_json::{Value, json};
use utoipa::openapi::OpenApi;

pub use error_codes::{ERROR_CODES, ErrorCode};
pub use pages::description_routes;

/// Tag of routes that are at the root only, such as `/health`. All others are described at `/v1`.
pub const RUNNING: &str = "Running";

/// The complete document of routes that say of themselves what `slices` has, with paths relative to a mount.
///
/// A route names who may call it in `security`, as `key = [right]`, `operator = []` or `()` for nobody in particular;
/// its own error codes in the extension `x-error-codes`; and its tag. The error responses, the headers of all responses
/// and the examples that its schemas have are added here.
pub fn describe(slices: impl IntoIterator<Item = OpenApi>, version: &str) -> Value {
    let merged = slices.into_iter().reduce(|all, slice| all.merge_from(slice));
    let mut document = serde_json::to_value(merged).unwrap_or_default();
    document["openapi"] = json!("3.1.0");
    document["info"] = json!({
        "title": "Triggers",
        "version": version,
        "description": ABOUT,
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    });
    document["servers"] = json!([{"url": "/", "description": "This system"}]);
    document["tags"] = json!(TAGS.map(|(name, description)| json!({"name": name, "description": description})));
    complete::complete(&mut document);
    document
}

const ABOUT: &str = "\
Triggers takes events from many producers and gets each one to its consumers.

**Key.** Send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`. Operator routes take the operator token as \
Bearer.

**Errors** are problem documents (RFC 9457) with a stable `error_code`.

**Mounts.** The same routes answer without the prefix `/v1`, and under `/api` for clients of older trigger APIs: there \
an invalid request is 422 instead of 400, an accepted event 202 instead of 201, and the inbox shows 100 events, newest \
first.

**Limits.** Each request counts one, a batch one per event. `RateLimit-Limit`, `RateLimit-Remaining` and \
`RateLimit-Reset` say what is left. Over it the answer is 429 with `Retry-After`.

**Queries and bodies** are strict: a parameter or a member that the route does not have is refused, and named. Only \
unknown members of an event are ignored.";

const TAGS: [(&str, &str); 6] = [
    ("Producing", "Events go in, alone or many at a time. An accepted event is on the log."),
    ("Consuming", "Reading the inbox, the status of events, and acknowledging them."),
    ("Webhooks", "Endpoints to which events are delivered."),
    ("Keys", "API keys, and the log of what was changed."),
    ("Organizations", "For the operator."),
    (RUNNING, "Whether the system works. No key is needed."),
];
