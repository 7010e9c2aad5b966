//! What the log worker and the retry worker share.

use std::sync::Arc;

use kafka::fence::PositionsPoller;
use sqlx::postgres::PgPool;
use tokio::sync::Notify;

use crate::attempt::in_flight::Attempter;
use crate::attempt::reporting::Reporter;
use crate::attempt::slots::Slots;
use crate::endpoints::cache::EndpointCache;

/// What the log worker and the retry worker share. Cloning shares the dependencies.
#[derive(Clone)]
pub(crate) struct Dependencies {
    pub pool: PgPool,
    /// Full name of the events topic.
    pub topic: Arc<str>,
    pub endpoint_cache: EndpointCache,
    pub attempter: Attempter,
    /// Knows whether attempts may start.
    pub reporter: Reporter,
    /// Bounds attempts per endpoint.
    pub slots: Slots,
    /// The positions that the view has reached.
    pub view: PositionsPoller,
    /// Wakes the retry worker when there are new rows.
    pub scheduled: Arc<Notify>,
}
