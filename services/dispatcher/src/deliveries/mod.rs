//! What one sees of deliveries: the deliveries of an endpoint (`list`) and of an event, one delivery with its attempts
//! (`one`), the figures and the condition of an endpoint (`stats`, `condition`), and why an event did or did not arrive
//! (`explain`). What is sent again by hand is here too: one delivery (`retry`), those that failed (`bulk`), and events
//! (`replay`). `request`
//! reads the filters, `cursor` is the paging cursor, `bodies` has the shapes of JSON, `rows` reads the tables.
//!
//! The view has the deliveries that were tried, the dispatcher's own tables those that wait for their first attempt.
//! Nothing here needs Kafka.

mod bodies;
mod bulk;
mod condition;
mod cursor;
mod explain;
mod list;
mod one;
pub(crate) mod replay;
mod request;
mod retry;
mod rows;
mod stats;

use axum::extract::FromRef;
use http_server::Routes;
use runtime::seal::SealingKey;
use sqlx::postgres::PgPool;
use tenancy::Authenticator;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::retry::schedule::OpenLimits;

pub(crate) use bodies::ScheduledDelivery;

#[derive(Clone)]
struct DeliveriesState {
    authenticator: Authenticator,
    pool: PgPool,
    sealing: SealingKey,
    open_limits: OpenLimits,
}

impl FromRef<DeliveriesState> for Authenticator {
    fn from_ref(state: &DeliveriesState) -> Self {
        state.authenticator.clone()
    }
}

/// The routes of deliveries. `pool` must have the [`tenancy::READ_SETTINGS`]. The limits are those of retries by hand.
pub fn delivery_routes(
    authenticator: Authenticator,
    pool: PgPool,
    sealing: SealingKey,
    open_limits: OpenLimits,
) -> Routes {
    described().with_state(DeliveriesState { authenticator, pool, sealing, open_limits }).into()
}

/// What the routes of deliveries say of themselves.
pub fn delivery_openapi() -> OpenApi {
    described().into_openapi()
}

fn described() -> OpenApiRouter<DeliveriesState> {
    OpenApiRouter::new()
        .routes(routes!(list::of_endpoint))
        .routes(routes!(list::of_event))
        .routes(routes!(one::show))
        .routes(routes!(retry::retry))
        .routes(routes!(bulk::start))
        .routes(routes!(replay::replay))
        .routes(routes!(bulk::show, bulk::cancel))
        .routes(routes!(stats::stats))
        .routes(routes!(explain::explain))
}
