//! An attempt from its begin to its report: send, decide what follows, tell the log. Used for first attempts and
//! retries alike; what the landing means for ledger and rows is theirs, whether attempts may begin is asked of
//! `reporting`.

use std::time::Duration;

use schemas::records::{DeliveryAttempt, DeliveryOutcome};
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::attempt::{Attempted, WebhookClient};
use crate::delivery::{Delivery, Landing};
use crate::endpoints;
use crate::matching::Endpoint;
use crate::metrics::METRICS;
use crate::reporting::Reporter;
use crate::retry_policy::{self, Next};
use crate::slots::Slot;

/// What a lease has beyond the request's timeout: the report, and room for a slow database.
const LEASE_MARGIN: Duration = Duration::from_secs(25);

/// How long others keep away from a row while an attempt with this timeout is made.
pub(crate) fn lease(timeout: Duration) -> Duration {
    timeout + LEASE_MARGIN
}

/// Makes attempts. Cloning shares connections and producer.
#[derive(Clone)]
pub(crate) struct Pilot {
    client: WebhookClient,
    reporter: Reporter,
    pool: PgPool,
}

impl Pilot {
    /// Attempts are made with `client` and told to `reporter`.
    pub(crate) fn new(client: WebhookClient, reporter: Reporter, pool: PgPool) -> Self {
        Self { client, reporter, pool }
    }

    /// Makes attempt number `attempt`. The slot is given back when the request has ended, before the report.
    pub(crate) async fn fly(&self, endpoint: &Endpoint, delivery: &Delivery, attempt: u32, slot: Slot) -> Landing {
        let under_way = InFlight::begin();
        let attempted = self.client.send(endpoint, &delivery.event).await;
        drop((slot, under_way));
        METRICS.attempt_seconds.observe(attempted.latency.as_secs_f64());
        let next = retry_policy::after(
            &endpoint.retry_delays_seconds,
            attempt,
            attempted.answer,
            rand::random_range(-1.0..=1.0),
        );
        if next == Next::Gone {
            self.disable(endpoint).await;
        }
        let (outcome, landing) = match next {
            Next::Delivered => (DeliveryOutcome::Delivered, Landing::Delivered),
            Next::RetryIn(after) => (DeliveryOutcome::Retrying, Landing::Retry { after }),
            Next::Exhausted | Next::Gone => (DeliveryOutcome::Failed, Landing::Failed),
        };
        METRICS.attempts.with_label_values(&[outcome.as_str()]).inc();
        let record = record(delivery, attempt, outcome, &attempted, landing);
        if self.reporter.report(&record).await {
            landing
        } else {
            METRICS.unreported.inc();
            Landing::Unreported
        }
    }

    /// Reports that a delivery was cancelled after so many attempts. `false`: the log could not be told.
    pub(crate) async fn cancel(&self, delivery: &Delivery, attempts: u32, reason: &str) -> bool {
        METRICS.attempts.with_label_values(&[DeliveryOutcome::Cancelled.as_str()]).inc();
        let record = DeliveryAttempt {
            org_id: delivery.event.org_id,
            event_id: delivery.event.event_id,
            endpoint_id: delivery.endpoint_id,
            delivery_id: delivery.id,
            event_type: delivery.event.event_type.clone(),
            attempt: i32::try_from(attempts).unwrap_or(i32::MAX),
            outcome: DeliveryOutcome::Cancelled,
            started_at: microseconds(OffsetDateTime::now_utc()),
            latency_ms: 0,
            status_code: None,
            error: Some(reason.to_owned()),
            response_excerpt: None,
            next_attempt_at: None,
        };
        self.reporter.report(&record).await
    }

    /// The endpoint answered 410. Failing to write that down only means that it is asked, and answers, again.
    async fn disable(&self, endpoint: &Endpoint) {
        match endpoints::store::disable_gone(&self.pool, endpoint.id).await {
            Ok(()) => info!(endpoint_id = %endpoint.id, "The endpoint answered 410 and was disabled."),
            Err(error) => {
                warn!(endpoint_id = %endpoint.id, %error, "The endpoint answered 410 and could not be disabled yet.")
            }
        }
    }
}

/// Counts an attempt for as long as it lives, however it ends.
struct InFlight;

impl InFlight {
    fn begin() -> Self {
        METRICS.in_flight.inc();
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        METRICS.in_flight.dec();
    }
}

fn record(
    delivery: &Delivery,
    attempt: u32,
    outcome: DeliveryOutcome,
    attempted: &Attempted,
    landing: Landing,
) -> DeliveryAttempt {
    let next_attempt_at = match landing {
        Landing::Retry { after } => Some(microseconds(attempted.started_at + attempted.latency + after)),
        _ => None,
    };
    DeliveryAttempt {
        org_id: delivery.event.org_id,
        event_id: delivery.event.event_id,
        endpoint_id: delivery.endpoint_id,
        delivery_id: delivery.id,
        event_type: delivery.event.event_type.clone(),
        attempt: i32::try_from(attempt).unwrap_or(i32::MAX),
        outcome,
        started_at: microseconds(attempted.started_at),
        latency_ms: i64::try_from(attempted.latency.as_millis()).unwrap_or(i64::MAX),
        status_code: attempted.answer.status.map(i32::from),
        error: attempted.error.clone(),
        response_excerpt: attempted.excerpt.clone(),
        next_attempt_at,
    }
}

fn microseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}
