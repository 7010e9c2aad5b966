//! State of the accept route.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRef, FromRequestParts};
use http::request::Parts;
use http_server::Problem;
use kafka::producer::Producer;
use kafka::read_your_writes::RecentWrites;
use runtime::lifecycle::Supervisor;
use runtime::seal::SealingKey;
use sqlx::postgres::PgPool;
use tenancy::Authenticator;

use crate::dedup_cache::DedupCache;
use crate::metrics::METRICS;

/// A concurrent duplicate waits longer than the producer's delivery timeout by this much: the producer checks for
/// timed-out records once a second.
const WAIT_SLACK: Duration = Duration::from_secs(2);

/// Cloning shares it: the router clones it several times for a request, and each count that two cores share costs one
/// of them a cache miss.
#[derive(Clone)]
pub struct IngestState(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    authenticator: Authenticator,
    pub(crate) producer: Producer,
    pub(crate) topic: Arc<str>,
    pub(crate) sealing: SealingKey,
    pub(crate) written: RecentWrites,
    pub(crate) dedup_cache: DedupCache,
}

impl FromRef<IngestState> for Authenticator {
    fn from_ref(state: &IngestState) -> Self {
        state.0.authenticator.clone()
    }
}

impl IngestState {
    /// Starts the lookup of dedup keys under `supervisor`. Must be called within a Tokio runtime.
    ///
    /// `topic` is the full name of the events topic. The inbox of this instance reads `written` for read-your-writes.
    pub fn start(
        supervisor: &mut Supervisor,
        authenticator: Authenticator,
        producer: Producer,
        topic: &str,
        sealing: SealingKey,
        written: RecentWrites,
        pool: PgPool,
    ) -> Self {
        let dedup_cache =
            DedupCache::start(supervisor, pool, sealing.clone(), producer.delivery_timeout() + WAIT_SLACK);
        Self(Arc::new(Shared { authenticator, producer, topic: Arc::from(topic), sealing, written, dedup_cache }))
    }
}

/// A request that may go on: events do not queue for Kafka. Before the key, so that a refusal under overload costs
/// little.
pub(crate) struct NotOverloaded;

impl FromRequestParts<IngestState> for NotOverloaded {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, state: &IngestState) -> Result<Self, Problem> {
        if state.0.producer.is_overloaded() {
            let problem =
                Problem::unavailable("more events come than Kafka confirms; nothing of the request was stored", 1);
            METRICS.refused.with_label_values(&[problem.error_code()]).inc();
            return Err(problem);
        }
        Ok(Self)
    }
}
