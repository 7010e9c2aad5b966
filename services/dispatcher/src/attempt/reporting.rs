//! Reports attempts to Kafka. While Kafka does not accept reports, no attempt may start: an attempt that cannot be
//! reported is repeated.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka::producer::{Producer, ProducerRecord, PublishError};
use schemas::codec;
use schemas::records::DeliveryAttempt;
use tokio::time::Instant;
use tracing::{error, info, warn};

/// How long a report is tried, from the end of the attempt. Leases are longer than this.
const REPORT_BUDGET: Duration = Duration::from_secs(15);
const REPORT_RETRY: Duration = Duration::from_millis(200);
const PROBE_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct EncodedReport {
    key: String,
    value: Arc<[u8]>,
}

/// Appends reports. Cloning shares the producer and the state.
#[derive(Clone)]
pub(crate) struct Reporter {
    producer: Producer,
    topic: Arc<str>,
    /// The report that failed last; `None` while Kafka accepts reports.
    last_failed_report: Arc<Mutex<Option<EncodedReport>>>,
}

impl Reporter {
    pub(crate) fn new(producer: Producer, topic: &str) -> Self {
        Self { producer, topic: Arc::from(topic), last_failed_report: Arc::default() }
    }

    /// Whether Kafka accepted the last report: only then may an attempt start.
    pub(crate) fn is_available(&self) -> bool {
        self.last_failed_report().is_none()
    }

    /// Appends the record. The view counts the same record twice as one attempt, so an unknown outcome is retried too.
    /// `false`: Kafka did not accept the report in time.
    pub(crate) async fn report(&self, record: &DeliveryAttempt) -> bool {
        let delivery_id = record.delivery_id;
        let value = match codec::encode_attempt(record) {
            Ok(value) => Arc::from(value),
            Err(error) => {
                error!(%error, %delivery_id, "Attempt report could not be encoded; the attempt is not reported.");
                return true;
            }
        };
        let report = EncodedReport { key: record.org_id.to_string(), value };
        let until = Instant::now() + REPORT_BUDGET;
        loop {
            match self.publish(&report).await {
                Ok(()) => return true,
                Err(PublishError::Rejected(reason)) => {
                    error!(reason, %delivery_id, "Kafka refuses an attempt report; the attempt is not reported.");
                    return true;
                }
                Err(error) if Instant::now() + REPORT_RETRY >= until => {
                    warn!(%error, %delivery_id, "Attempt could not be reported in time; repeating it.");
                    return false;
                }
                Err(_) => tokio::time::sleep(REPORT_RETRY).await,
            }
        }
    }

    /// Waits until Kafka accepts reports again, by repeating the report that failed last: reading metadata would not
    /// show whether the topic can be written.
    pub(crate) async fn probe(&self) {
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            let Some(report) = self.last_failed_report().clone() else { return };
            // `publish` stores the outcome, which is read above.
            let _outcome = self.publish(&report).await;
        }
    }

    async fn publish(&self, report: &EncodedReport) -> Result<(), PublishError> {
        let headers = [(schemas::headers::CONTENT_TYPE, schemas::headers::CONTENT_TYPE_AVRO.as_bytes())];
        let outgoing = ProducerRecord {
            topic: &self.topic,
            key: Some(report.key.as_bytes()),
            value: Some(&report.value),
            headers: &headers,
        };
        let outcome = self.producer.publish(outgoing).await.map(drop);
        match &outcome {
            // Kafka answered, even if it refused the record.
            Ok(()) | Err(PublishError::Rejected(_)) => {
                if self.last_failed_report().take().is_some() {
                    info!("Kafka accepts attempt reports again; starting attempts.");
                }
            }
            Err(error @ (PublishError::Unknown(_) | PublishError::Failed(_))) => {
                if self.last_failed_report().replace(report.clone()).is_none() {
                    warn!(%error, "Kafka does not accept attempt reports; no attempts are started until it does.");
                }
            }
            // Our own limit says nothing about Kafka.
            Err(PublishError::Busy) => {}
        }
        outcome
    }

    fn last_failed_report(&self) -> MutexGuard<'_, Option<EncodedReport>> {
        self.last_failed_report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
