//! HTTP for every role: the server, request bodies and queries, problem responses, request ids, the three mounts, and
//! the operational routes (status, health, metrics).
//!
//! API routes, API keys and organizations are in other crates.

mod body;
mod body_stream;
mod budgets;
mod connection;
mod connection_timer;
mod context;
mod cors;
mod description;
mod descriptors;
mod host;
mod invalid_query;
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
mod rate_limit;
mod request_layer;
mod response_body;
mod routes;
mod serve_connection;
mod server;
mod server_limits;
mod shape;
mod timestamp;
mod trusted_proxies;
mod unread_body;

pub use body::{BATCH_BODY_BYTES, BodyLimits, BodyReadTimeout, EVENT_BODY_BYTES, RequestBody, read_body};
pub use body_stream::BodyStream;
pub use budgets::{Budgets, Holder, HolderShares, refusal, response_problem, subscriber};
pub use context::{ClientAddress, Dialect, RequestContext};
pub use cors::CorsOrigins;
pub use description::{ERROR_CODES, ErrorCode, RUNNING, describe, description_routes};
pub use descriptors::connections_that_fit;
pub use host::AllowedHosts;
pub use invalid_query::InvalidQuery;
pub use json::{JsonBody, JsonObject};
pub use mount::{MountOptions, mount};
pub use observe::LongPollWait;
pub use operational::{ServiceInfo, metrics_route, operational_routes, probe_openapi, probe_routes};
pub use patch::PatchMember;
pub use path::PathId;
pub use problem::{FieldError, Problem};
pub use query::QueryParams;
pub use rate_limit::{RateLimit, RateLimitSlot};
pub use response_body::ResponseReservation;
pub use routes::{Routes, also_at};
pub use server::{ServerSettings, serve};
pub use server_limits::ServerLimits;
pub use timestamp::{InvalidTime, Timestamp};
pub use trusted_proxies::{ForwardedHeader, TrustedProxies};
