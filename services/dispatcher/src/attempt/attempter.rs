//! One attempt: sends the request, decides what follows, and reports the attempt. For first attempts and retries.

use std::ops::RangeInclusive;
use std::time::Duration;

use runtime::telemetry::metrics::Counted;
use schemas::records::{DeliveryAttempt, DeliveryOutcome};
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tracing::warn;

use crate::attempt::client::WebhookClient;
use crate::attempt::reporting::Reporter;
use crate::attempt::slots::{Observed, Slot};
use crate::delivery::{AttemptOutcome, Delivery, signed};
use crate::endpoints::disabling::{self, DisablingReason};
use crate::endpoints::matching::Endpoint;
use crate::metrics::METRICS;
use crate::retry::policy::{self, ReceiverAnswer, RetryDecision};

/// A lease is longer than the request's timeout by the time for the report and a slow database.
const LEASE_MARGIN: Duration = Duration::from_secs(25);

/// How long a delivery waits that could not be sent through no fault of its endpoint. Random, so that those that failed
/// together are not sent together.
const NOT_SENT_DELAY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3);

/// The lease of an attempt with this timeout.
pub(crate) fn lease(timeout: Duration) -> Duration {
    timeout + LEASE_MARGIN
}

/// Makes attempts. Cloning shares connections and producer.
#[derive(Clone)]
pub(crate) struct Attempter {
    client: WebhookClient,
    reporter: Reporter,
    pool: PgPool,
}

impl Attempter {
    pub(crate) fn new(client: WebhookClient, reporter: Reporter, pool: PgPool) -> Self {
        Self { client, reporter, pool }
    }

    /// Makes attempt number `attempt`. Frees the slot after the request, before the report.
    pub(crate) async fn attempt(
        &self,
        endpoint: &Endpoint,
        delivery: &Delivery,
        attempt: u32,
        slot: Slot,
    ) -> AttemptOutcome {
        let in_flight = Counted::new(&METRICS.in_flight);
        let result = self.client.send(endpoint, &delivery.event).await;
        let result = match result {
            Ok(result) => result,
            Err(reason) => {
                METRICS.not_sent.with_label_values(&[reason.as_str()]).inc();
                return AttemptOutcome::NotAttempted { after: rand::random_range(NOT_SENT_DELAY) };
            }
        };
        let ReceiverAnswer { status, retry_after } = result.answer;
        let is_of_system = delivery.event.is_of_system();
        METRICS.pauses.inc_by(u64::from(status == Some(429) && retry_after.is_some()));
        slot.finish(Observed { status, latency: result.latency, retry_after, is_of_system });
        drop(in_flight);
        METRICS.attempt_seconds.observe(result.latency.as_secs_f64());
        let jitter = rand::random_range(-1.0..=1.0);
        // The schedule starts again with each round. A test is not repeated.
        let delays = if delivery.event.is_test() { &[] } else { endpoint.retry_delays_seconds.as_slice() };
        let in_round = attempt.saturating_sub(delivery.round.attempts_before);
        let decision = policy::after_attempt(delays, in_round, result.answer, jitter);
        if decision == RetryDecision::Gone {
            self.disable(endpoint, !is_of_system).await;
        }
        let (reported, outcome) = match decision {
            RetryDecision::Delivered => (DeliveryOutcome::Delivered, AttemptOutcome::Delivered),
            RetryDecision::RetryIn(after) => (DeliveryOutcome::Retrying, AttemptOutcome::Retry { after }),
            RetryDecision::Exhausted | RetryDecision::Gone => (DeliveryOutcome::Failed, AttemptOutcome::Failed),
        };
        let next_attempt_at = match outcome {
            AttemptOutcome::Retry { after } => Some(microseconds(result.started_at + result.latency + after)),
            _ => None,
        };
        let report = DeliveryAttempt {
            latency_ms: i64::try_from(result.latency.as_millis()).unwrap_or(i64::MAX),
            status_code: result.answer.status.map(i32::from),
            error: result.error,
            response_excerpt: result.excerpt,
            next_attempt_at,
            connect_us: Some(whole_microseconds(result.timings.connect)),
            send_us: Some(whole_microseconds(result.timings.send)),
            wait_us: Some(whole_microseconds(result.timings.wait)),
            remote_address: result.remote_address.map(|address| address.to_string()),
            ..report(delivery, attempt, reported, result.started_at)
        };
        if self.report(&report).await {
            outcome
        } else {
            METRICS.unreported.inc();
            AttemptOutcome::Unreported
        }
    }

    /// Reports that a delivery ends without another attempt, after so many: `outcome` is cancelled or failed. `false`:
    /// Kafka did not accept the report.
    pub(crate) async fn end(
        &self,
        delivery: &Delivery,
        attempts: u32,
        outcome: DeliveryOutcome,
        reason: String,
    ) -> bool {
        let report = report(delivery, attempts, outcome, OffsetDateTime::now_utc());
        self.report(&DeliveryAttempt { error: Some(reason), ..report }).await
    }

    async fn report(&self, report: &DeliveryAttempt) -> bool {
        METRICS.attempts.with_label_values(&[report.outcome.as_str()]).inc();
        self.reporter.report(report).await
    }

    /// Disables an endpoint that answered 410. After an error it gets another request and answers 410 again.
    async fn disable(&self, endpoint: &Endpoint, notifies: bool) {
        if let Err(error) = disabling::disable(&self.pool, endpoint.id, DisablingReason::Gone, notifies).await {
            warn!(
                endpoint_id = %endpoint.id, %error,
                "Endpoint answered 410 and could not be disabled; trying again after its next answer."
            );
        }
    }
}

/// A report without the details of a request.
fn report(delivery: &Delivery, attempt: u32, outcome: DeliveryOutcome, started_at: OffsetDateTime) -> DeliveryAttempt {
    DeliveryAttempt {
        org_id: delivery.event.org_id,
        event_id: delivery.event.event_id,
        endpoint_id: delivery.endpoint_id,
        delivery_id: delivery.id,
        event_type: delivery.event.event_type.clone(),
        attempt: signed(attempt),
        outcome,
        started_at: microseconds(started_at),
        latency_ms: 0,
        status_code: None,
        error: None,
        response_excerpt: None,
        next_attempt_at: None,
        connect_us: None,
        send_us: None,
        wait_us: None,
        remote_address: None,
        endpoints_matched: delivery.event.endpoints_matched.map(signed),
        round: signed(delivery.round.number),
    }
}

fn microseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

fn whole_microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
