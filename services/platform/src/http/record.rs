//! Requests that write records to the log: the headers of their records, and the answer when the log does not take one.

use schemas::headers::{CONTENT_TYPE, CONTENT_TYPE_AVRO, KEY_ID, REQUEST_ID, TRACEPARENT, TRACESTATE};
use tracing::{error, warn};

use super::{Problem, RequestContext};
use crate::kafka::producer::PublishError;
use crate::telemetry::throttle::Throttle;

/// Without Kafka every request fails alike: a few lines a second tell it.
static OUTAGE_LINES: Throttle = Throttle::new(5);

/// What a request writes, in the words of its problems.
#[derive(Debug, Clone, Copy)]
pub struct RecordKind {
    /// Such as "event".
    pub noun: &'static str,
    /// What to know after a refusal.
    pub after_refusal: &'static str,
    /// What to do when the record may have been stored.
    pub in_doubt: &'static str,
}

impl RequestContext {
    /// Headers of every record that this request writes, in Avro. `key_id`: of the API key that it was sent with.
    pub fn record_headers<'a>(&'a self, key_id: &'a [u8]) -> Vec<(&'static str, &'a [u8])> {
        let mut headers = vec![
            (CONTENT_TYPE, CONTENT_TYPE_AVRO.as_bytes()),
            (REQUEST_ID, self.request_id.as_bytes()),
            (KEY_ID, key_id),
        ];
        if let Some(traceparent) = &self.traceparent {
            headers.push((TRACEPARENT, traceparent.as_bytes()));
        }
        if let Some(tracestate) = &self.tracestate {
            headers.push((TRACESTATE, tracestate.as_bytes()));
        }
        headers
    }

    /// The answer to a request whose record was not, or may not have been, appended: what the client may assume, and
    /// when to come again.
    pub fn publish_problem(&self, kind: RecordKind, failure: &PublishError) -> Problem {
        let RecordKind { noun, after_refusal, in_doubt } = kind;
        let outage_line = |message: &str, reason: &str| {
            if let Some(held_back) = OUTAGE_LINES.admit() {
                warn!(held_back, request_id = %self.request_id, record = noun, reason, "{message}");
            }
        };
        match failure {
            PublishError::Busy => Problem::unavailable(format!("too many {noun}s are in flight; {after_refusal}"), 1),
            PublishError::Rejected(reason) => {
                error!(request_id = %self.request_id, record = noun, reason, "Kafka refused a valid record.");
                Problem::internal()
            }
            PublishError::Failed(reason) => {
                outage_line("Kafka did not take a record.", reason);
                let detail = format!("the log does not take {noun}s at the moment; {after_refusal}");
                Problem::unavailable(detail, 2)
            }
            PublishError::Unknown(reason) => {
                outage_line("Kafka did not confirm a record.", reason);
                let detail = format!("the log did not answer in time; the {noun} may have been stored: {in_doubt}");
                Problem::unavailable(detail, 2)
            }
        }
    }
}
