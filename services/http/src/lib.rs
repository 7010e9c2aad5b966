//! HTTP for every role: the server, request bodies and queries, problem responses, request ids, the three mounts, and
//! the operational routes (status, health, metrics).
//!
//! API routes, API keys and organizations are in other crates.

mod body;
mod connection;
mod context;
mod host;
mod json;
mod members;
mod mount;
mod nearest;
mod observe;
mod operational;
mod patch;
mod path;
mod problem;
mod query;
mod request_layer;
mod routes;
mod server;
mod server_limits;
mod timestamp;

pub use body::{BATCH_BODY_BYTES, BodyLimits, BodyReadTimeout, EVENT_BODY_BYTES, RequestBody, read_body};
pub use context::{Dialect, PeerAddr, RequestContext};
pub use json::{JsonBody, JsonObject};
pub use mount::{MountOptions, mount};
pub use observe::LongPollWait;
pub use operational::{ServiceInfo, metrics_route, operational_routes, probe_routes};
pub use patch::PatchMember;
pub use path::PathId;
pub use problem::{FieldError, Problem};
pub use query::QueryParams;
pub use routes::{Parameter, RouteQuery, Routes};
pub use server::serve;
pub use server_limits::ServerLimits;
pub use timestamp::Timestamp;
