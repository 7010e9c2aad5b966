//! What one sees of deliveries: the deliveries of an endpoint (`list`) and of an event, one delivery with its attempts
//! (`one`), the figures of an endpoint (`stats`), and why an event did or did not arrive (`explain`). Retries by hand
//! are here too: of one delivery (`retry`), and of those that failed (`bulk`). `request` reads the filters, `cursor` is
//! the paging cursor, `bodies` has the shapes of JSON, `rows` reads the tables.
//!
//! The view has the deliveries that were tried, the dispatcher's own tables those that wait for their first attempt.
//! Nothing here needs Kafka.

mod bodies;
mod bulk;
mod cursor;
mod explain;
mod list;
mod one;
mod request;
mod retry;
mod rows;
mod stats;

use std::time::Duration;

use axum::extract::FromRef;
use http_server::{Problem, Routes};
use runtime::postgres::{SqlEffect, effect};
use runtime::seal::SealingKey;
use sqlx::postgres::PgPool;
use tenancy::{Authenticator, Caller};
use tracing::{error, warn};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::retry::schedule::OpenLimits;

pub(crate) use bodies::ScheduledDelivery;

/// Settings of the connections that read deliveries. An index returns a page in its order: with old statistics, the
/// planner would expect few rows and prefer a sort.
pub const READ_SETTINGS: &[(&str, &str)] = &[("enable_sort", "off"), ("jit", "off"), ("statement_timeout", "5000")];
/// PostgreSQL ends a statement at about the same time: sqlx cannot cancel one.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

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

impl DeliveriesState {
    /// Runs `reading` with a timeout, in one of the places in the database that the caller's organization has.
    async fn read<T>(
        &self,
        caller: &Caller,
        reading: impl Future<Output = Result<T, sqlx::Error>> + Send,
    ) -> Result<T, Problem> {
        let _place = caller.shares().take_read().await?;
        match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(outcome) => outcome.map_err(|error| failed(&error)),
            Err(_) => {
                warn!("PostgreSQL did not answer a read of deliveries in time; answering 503.");
                Err(unavailable())
            }
        }
    }
}

fn unavailable() -> Problem {
    Problem::unavailable("deliveries cannot be read at the moment; nothing is lost, try again", 2)
}

fn failed(error: &sqlx::Error) -> Problem {
    match effect(error) {
        SqlEffect::Unavailable | SqlEffect::Retry => {
            warn!(%error, "PostgreSQL is unavailable for a read of deliveries; answering 503.");
            unavailable()
        }
        SqlEffect::Data | SqlEffect::Fatal => {
            error!(%error, "Read of deliveries failed; answering 500.");
            Problem::internal()
        }
    }
}

/// The routes of deliveries. `pool` must have the [`READ_SETTINGS`]. The limits are those of retries by hand.
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
        .routes(routes!(bulk::show, bulk::cancel))
        .routes(routes!(stats::stats))
        .routes(routes!(explain::explain))
}
