//! Accepting events over HTTP: check, recognize repeats, append to the log, answer.
//!
//! Lives here: the accept routes, what makes a request an event ([`admit`]), and what ingest knows of repeats
//! ([`repeats`]). A success code is sent only after Kafka's delivery report. Does not live here: who the caller is
//! (`tenancy`), what a valid event is (`schemas`), how records are appended (`platform::kafka`), and which of two
//! duplicates is the original: that is decided by the materializer alone, and what is answered here is what is known of
//! it so far.

mod accept;
mod admit;
mod metrics;
mod repeats;
mod reply;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::post;
use platform::kafka::producer::Producer;
use platform::lifecycle::Supervisor;
use platform::read_your_writes::RecentWrites;
use platform::seal::SealingKey;
use sqlx::postgres::PgPool;
use tenancy::Authenticator;

use repeats::Repeats;

/// How much longer than Kafka is given to answer a twin waits for the first: the producer looks for timed-out records
/// once a second.
const TWIN_SLACK: Duration = Duration::from_secs(2);

/// What the accept routes work with.
#[derive(Clone)]
pub struct IngestState {
    authenticator: Authenticator,
    producer: Producer,
    topic: Arc<str>,
    sealing: SealingKey,
    written: RecentWrites,
    repeats: Repeats,
}

impl FromRef<IngestState> for Authenticator {
    fn from_ref(state: &IngestState) -> Self {
        state.authenticator.clone()
    }
}

impl IngestState {
    /// Puts the parts together. Must be called within a runtime: looking up repeats runs on it, under `supervisor`.
    ///
    /// `topic` is the full name of the events topic, `written` what the inbox of this instance reads for
    /// read-your-writes.
    pub fn start(
        supervisor: &mut Supervisor,
        authenticator: Authenticator,
        producer: Producer,
        topic: &str,
        sealing: SealingKey,
        written: RecentWrites,
        pool: PgPool,
    ) -> Self {
        let repeats = Repeats::start(supervisor, pool, producer.delivery_timeout() + TWIN_SLACK);
        Self { authenticator, producer, topic: Arc::from(topic), sealing, written, repeats }
    }
}

/// The routes, relative to a mount.
pub fn routes(state: IngestState) -> Router {
    Router::new().route("/events", post(accept::accept)).with_state(state)
}
