//! One attempt: sends the request, decides what follows, and reports the attempt. For first attempts and retries.

use std::ops::RangeInclusive;
use std::time::Duration;

use futures_util::future::join_all;
use runtime::telemetry::metrics::Counted;
use schemas::records::{DeliveryAttempt, DeliveryOutcome};
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tracing::warn;

use crate::attempt::client::{RequestResult, WebhookClient};
use crate::attempt::message::Message;
use crate::attempt::reporting::Reporter;
use crate::attempt::slots::{Observed, Slot};
use crate::batch::split;
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

    /// Makes an attempt of these deliveries of the endpoint, in one request: the answer is for all of them. Frees the
    /// slot after the request, before the reports. Returns an outcome for each, in their order.
    pub(crate) async fn attempt(&self, endpoint: &Endpoint, attempts: &[Attempt], slot: Slot) -> Vec<AttemptOutcome> {
        let in_flight = Counted::new(&METRICS.in_flight);
        let events = attempts.iter().map(|attempt| attempt.delivery.event.as_ref());
        let message = match endpoint.batch {
            Some(settings) => Message::batch(endpoint.id, &settings, events),
            None => events.map(Message::single).next(),
        };
        let Some(message) = message else { return Vec::new() };
        let result = match self.client.send(endpoint, &message).await {
            Ok(result) => result,
            Err(reason) => {
                METRICS.not_sent.with_label_values(&[reason.as_str()]).inc();
                let after = rand::random_range(NOT_SENT_DELAY);
                return vec![AttemptOutcome::NotAttempted { after }; attempts.len()];
            }
        };
        let ReceiverAnswer { status, retry_after } = result.answer;
        let is_of_system = attempts.iter().all(|attempt| attempt.delivery.event.is_of_system());
        METRICS.pauses.inc_by(u64::from(status == Some(429) && retry_after.is_some()));
        let batch_id = message.batch_id;
        drop(message);
        slot.finish(Observed { status, latency: result.latency, retry_after, is_of_system });
        drop(in_flight);
        METRICS.attempt_seconds.observe(result.latency.as_secs_f64());
        if endpoint.batch.is_some() {
            METRICS.batch_events.observe(attempts.len() as f64);
        }
        // One for all, so that a batch is due again as a whole.
        let jitter = rand::random_range(-1.0..=1.0);
        let decisions: Vec<RetryDecision> =
            attempts.iter().map(|attempt| attempt.decide(endpoint, result.answer, jitter)).collect();
        if decisions.contains(&RetryDecision::Gone) {
            self.disable(endpoint, !is_of_system).await;
        }
        let reports = attempts.iter().zip(decisions).map(|(attempt, decision)| {
            let batch_limit = attempt.batch_limit(endpoint, result.answer.status, attempts.len());
            let (reported, outcome) = attempt.outcome(decision, batch_limit);
            let report = DeliveryAttempt { batch_id, ..attempt.report(reported, outcome, &result) };
            async move { if self.report(&report).await { outcome } else { unreported() } }
        });
        // At the same time: each of them has the time of one.
        join_all(reports).await
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

/// The next attempt of a delivery.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub delivery: Delivery,
    /// 1 is the first.
    pub number: u32,
}

impl Attempt {
    /// The schedule starts again with each round. A test is not repeated.
    fn in_schedule<'a>(&self, endpoint: &'a Endpoint) -> (u32, &'a [u32]) {
        let delays = if self.delivery.event.is_test() { &[] } else { endpoint.retry_delays_seconds.as_slice() };
        (self.number.saturating_sub(self.delivery.round.attempts_before), delays)
    }

    fn decide(&self, endpoint: &Endpoint, answer: ReceiverAnswer, jitter: f64) -> RetryDecision {
        let (number, delays) = self.in_schedule(endpoint);
        policy::after_attempt(delays, number, answer, jitter)
    }

    /// The most events that may share its next request, after one with so many failed.
    fn batch_limit(&self, endpoint: &Endpoint, status: Option<u16>, events: usize) -> Option<u32> {
        let (number, delays) = self.in_schedule(endpoint);
        let attempts = u32::try_from(delays.len()).unwrap_or(u32::MAX).saturating_add(1);
        split::limit_after_failure(number, attempts, status, events)
    }

    fn outcome(&self, decision: RetryDecision, batch_limit: Option<u32>) -> (DeliveryOutcome, AttemptOutcome) {
        match decision {
            RetryDecision::Delivered => (DeliveryOutcome::Delivered, AttemptOutcome::Delivered),
            RetryDecision::RetryIn(after) => (DeliveryOutcome::Retrying, AttemptOutcome::Retry { after, batch_limit }),
            RetryDecision::Exhausted | RetryDecision::Gone => (DeliveryOutcome::Failed, AttemptOutcome::Failed),
        }
    }

    fn report(&self, reported: DeliveryOutcome, outcome: AttemptOutcome, result: &RequestResult) -> DeliveryAttempt {
        let next_attempt_at = match outcome {
            AttemptOutcome::Retry { after, .. } => Some(microseconds(result.started_at + result.latency + after)),
            _ => None,
        };
        DeliveryAttempt {
            latency_ms: i64::try_from(result.latency.as_millis()).unwrap_or(i64::MAX),
            status_code: result.answer.status.map(i32::from),
            error: result.error.clone(),
            response_excerpt: result.excerpt.clone(),
            next_attempt_at,
            connect_us: Some(whole_microseconds(result.timings.connect)),
            send_us: Some(whole_microseconds(result.timings.send)),
            wait_us: Some(whole_microseconds(result.timings.wait)),
            remote_address: result.remote_address.map(|address| address.to_string()),
            ..report(&self.delivery, self.number, reported, result.started_at)
        }
    }
}

fn unreported() -> AttemptOutcome {
    METRICS.unreported.inc();
    AttemptOutcome::Unreported
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
        batch_id: None,
    }
}

fn microseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

fn whole_microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
