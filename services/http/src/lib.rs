//! HTTP as every role speaks it: problems, request ids, the three mounts, bodies, queries, the server and the running
//! routes.
//!
//! No business routes and no knowledge of keys or tenants live here: those are the slices'.

mod body;
mod connection;
mod context;
mod edge;
mod host;
mod json;
mod mount;
mod observe;
mod path;
mod problem;
mod query;
mod running;
mod server;
mod timestamp;

pub use body::{BATCH_BODY_BYTES, Body, BodyLimits, BodyReadTimeout, EVENT_BODY_BYTES, read};
pub use context::{Dialect, PeerAddr, RequestContext};
pub use json::{JsonBody, JsonObject};
pub use mount::{MountOptions, mount};
pub use observe::LongPollWait;
pub use path::PathId;
pub use problem::{FieldError, Problem};
pub use query::QueryParams;
pub use running::{ServiceInfo, metrics_route, probe_routes, routes as running_routes};
pub use server::{ServerLimits, serve};
pub use timestamp::Timestamp;
