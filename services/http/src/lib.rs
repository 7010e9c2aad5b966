//! HTTP for every role: the server, request bodies and queries, problem responses, request ids, the three mounts, and
//! the operational routes (status, health, metrics).
//!
//! API routes, API keys and organizations are in other crates.

mod body;
mod connection;
mod context;
mod host;
mod json;
mod mount;
mod observe;
mod operational;
mod path;
mod problem;
mod query;
mod rate_limit;
mod request_layer;
mod server;
mod server_limits;
mod timestamp;

pub use body::{BATCH_BODY_BYTES, BodyLimits, BodyReadTimeout, EVENT_BODY_BYTES, RequestBody, read_body};
pub use context::{Dialect, PeerAddr, RequestContext};
pub use json::{JsonBody, JsonObject};
pub use mount::{MountOptions, mount};
pub use observe::LongPollWait;
pub use operational::{ServiceInfo, metrics_route, operational_routes, probe_routes};
pub use path::PathId;
pub use problem::{FieldError, Problem};
pub use query::QueryParams;
pub use rate_limit::{RateLimit, RateLimitSlot};
pub use server::serve;
pub use server_limits::ServerLimits;
pub use timestamp::Timestamp;
