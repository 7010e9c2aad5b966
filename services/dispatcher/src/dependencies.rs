use std::sync::Arc;

use kafka::fence::PositionsPoller;
use sqlx::postgres::PgPool;
use tokio::sync::Notify;

use crate::attempt::attempter::Attempter;
use crate::attempt::reporting::Reporter;
use crate::attempt::slots::Slots;
use crate::batch::bytes::BatchBytes;
use crate::endpoints::cache::EndpointCache;
use crate::retry::schedule::OpenLimits;

/// What the log worker and the retry worker share. Cloning shares the dependencies.
#[derive(Clone)]
pub(crate) struct Dependencies {
    pub pool: PgPool,
    /// Full name of the events topic.
    pub topic: Arc<str>,
    pub endpoint_cache: EndpointCache,
    pub attempter: Attempter,
    /// Says whether attempts may start.
    pub reporter: Reporter,
    /// Which attempts may start.
    pub slots: Slots,
    /// How large batches in flight may be.
    pub batch_bytes: BatchBytes,
    /// What an organization may have open.
    pub limits: OpenLimits,
    /// Positions of the materializer.
    pub view_positions: PositionsPoller,
    /// Wakes the retry worker after new rows were committed.
    pub rows_added: Arc<Notify>,
}
