//! Telling the log how attempts ended, and whether it listens: while it does not, no attempt may begin, since an
//! attempt that cannot be reported is made again. What a report says is `flight`'s business.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka::producer::{Producer, ProducerRecord, PublishError};
use schemas::codec;
use schemas::records::DeliveryAttempt;
use tokio::time::Instant;
use tracing::{error, info, warn};

/// How long an attempt's report is tried, from the attempt's end. A lease covers it.
const REPORT_BUDGET: Duration = Duration::from_secs(15);
const REPORT_RETRY: Duration = Duration::from_millis(200);
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// An attempt's record as it is appended.
#[derive(Clone)]
struct Report {
    key: String,
    value: Arc<[u8]>,
}

/// Appends reports. Cloning shares the producer and what is known of the log.
#[derive(Clone)]
pub(crate) struct Reporter {
    producer: Producer,
    topic: Arc<str>,
    /// The report that failed last; `None` while the log listens.
    last_failed_report: Arc<Mutex<Option<Report>>>,
}

impl Reporter {
    /// Reports go to `topic`.
    pub(crate) fn new(producer: Producer, topic: &str) -> Self {
        Self { producer, topic: Arc::from(topic), last_failed_report: Arc::default() }
    }

    /// Whether the log took the last report: only then may an attempt begin.
    pub(crate) fn is_available(&self) -> bool {
        self.last_failed_report().is_none()
    }

    /// Appends the record; the same one twice is one attempt in the view, so an unknown outcome is tried again too.
    /// `false`: Kafka did not take the report in time.
    pub(crate) async fn report(&self, record: &DeliveryAttempt) -> bool {
        let value = match codec::encode_attempt(record) {
            Ok(value) => Arc::from(value),
            Err(error) => {
                error!(%error, delivery_id = %record.delivery_id, "An attempt could not be encoded and goes unreported.");
                return true;
            }
        };
        let report = Report { key: record.org_id.to_string(), value };
        let until = Instant::now() + REPORT_BUDGET;
        loop {
            match self.publish(&report).await {
                Ok(()) => return true,
                Err(PublishError::Rejected(reason)) => {
                    error!(reason, delivery_id = %record.delivery_id, "Kafka refuses an attempt's record for good; it goes unreported.");
                    return true;
                }
                Err(error) if Instant::now() + REPORT_RETRY >= until => {
                    warn!(%error, delivery_id = %record.delivery_id, "An attempt could not be reported in time; it is made again.");
                    return false;
                }
                Err(_) => tokio::time::sleep(REPORT_RETRY).await,
            }
        }
    }

    /// Waits until the log listens, and repeats the report that failed last to find out: asking for the topic would not
    /// show that nothing can be written to it.
    pub(crate) async fn probe(&self) {
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            let Some(report) = self.last_failed_report().clone() else { return };
            // How it went is kept, and looked at above.
            let _outcome = self.publish(&report).await;
        }
    }

    async fn publish(&self, report: &Report) -> Result<(), PublishError> {
        let headers = [(schemas::headers::CONTENT_TYPE, schemas::headers::CONTENT_TYPE_AVRO.as_bytes())];
        let outgoing = ProducerRecord {
            topic: &self.topic,
            key: Some(report.key.as_bytes()),
            value: Some(&report.value),
            headers: &headers,
        };
        let outcome = self.producer.publish(outgoing).await.map(drop);
        match &outcome {
            // A refusal is an answer too.
            Ok(()) | Err(PublishError::Rejected(_)) => {
                if self.last_failed_report().take().is_some() {
                    info!("Attempts can be reported again.");
                }
            }
            Err(error @ (PublishError::Unknown(_) | PublishError::Failed(_))) => {
                if self.last_failed_report().replace(report.clone()).is_none() {
                    warn!(%error, "Attempts cannot be reported; none begins until they can.");
                }
            }
            // A bound of ours says nothing about the log.
            Err(PublishError::Busy) => {}
        }
        outcome
    }

    fn last_failed_report(&self) -> MutexGuard<'_, Option<Report>> {
        self.last_failed_report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
