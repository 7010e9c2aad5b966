//! Requests that write records to the log: the headers of their records, and the answer when the log does not take one.

use http_server::{Problem, RequestContext};
use kafka::producer::PublishError;
use runtime::telemetry::throttle::Throttle;
use schemas::headers::{CONTENT_TYPE, CONTENT_TYPE_AVRO, KEY_ID, REQUEST_ID, TRACEPARENT, TRACESTATE};
use tracing::{error, warn};

/// Without Kafka every request fails in the same way: a few log lines a second are enough.
static OUTAGE_LINES: Throttle = Throttle::new(5);

/// What a request writes, for the texts of its problems.
#[derive(Debug, Clone, Copy)]
pub struct RecordKind {
    /// Such as "event".
    pub noun: &'static str,
    /// Continues the text of an error, such as "it was not stored".
    pub after_refusal: &'static str,
    /// What to do when the record may have been stored.
    pub in_doubt: &'static str,
}

/// Headers of every record that this request writes, in Avro. `key_id`: of the API key that it was sent with.
pub fn record_headers<'a>(context: &'a RequestContext, key_id: &'a [u8]) -> Vec<(&'static str, &'a [u8])> {
    let mut headers = vec![
        (CONTENT_TYPE, CONTENT_TYPE_AVRO.as_bytes()),
        (REQUEST_ID, context.request_id.as_bytes()),
        (KEY_ID, key_id),
    ];
    if let Some(traceparent) = &context.traceparent {
        headers.push((TRACEPARENT, traceparent.as_bytes()));
    }
    if let Some(tracestate) = &context.tracestate {
        headers.push((TRACESTATE, tracestate.as_bytes()));
    }
    headers
}

/// The answer to a request whose record was not, or may not have been, appended: what the client may assume, and
/// when to come again.
pub fn publish_problem(context: &RequestContext, kind: RecordKind, failure: &PublishError) -> Problem {
    let RecordKind { noun, after_refusal, in_doubt } = kind;
    let outage_line = |message: &str, reason: &str| {
        if let Some(held_back) = OUTAGE_LINES.admit() {
            warn!(held_back, request_id = %context.request_id, record = noun, reason, "{message}");
        }
    };
    match failure {
        PublishError::Busy => Problem::unavailable(format!("too many {noun}s are in flight; {after_refusal}"), 1),
        PublishError::Rejected(reason) => {
            error!(request_id = %context.request_id, record = noun, reason, "Kafka refused a valid record.");
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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Uri};

    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const EVENT: RecordKind =
        RecordKind { noun: "event", after_refusal: "it was not stored", in_doubt: "repeat the request" };

    fn context(headers: &[(&'static str, &'static str)]) -> RequestContext {
        let header = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        RequestContext::new(&headers.iter().map(header).collect::<HeaderMap>(), &Uri::from_static("/v1/events"))
    }

    #[test]
    fn a_record_names_the_request_the_key_and_the_trace() {
        let context = context(&[("x-request-id", "one"), ("traceparent", TRACE), ("tracestate", "a=b")]);
        let expected: [(&str, &[u8]); 5] = [
            ("content-type", b"application/avro"),
            ("x-request-id", b"one"),
            ("triggers-key-id", b"key"),
            ("traceparent", TRACE.as_bytes()),
            ("tracestate", b"a=b"),
        ];
        assert_eq!(record_headers(&context, b"key"), expected);
    }

    #[test]
    fn a_request_without_a_trace_writes_records_without_one() {
        let context = context(&[]);
        let names: Vec<&str> = record_headers(&context, b"key").iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["content-type", "x-request-id", "triggers-key-id"]);
    }

    #[test]
    fn a_problem_says_whether_the_record_may_have_been_stored() {
        let context = context(&[]);
        let detail = |failure: PublishError| publish_problem(&context, EVENT, &failure).detail().to_owned();
        for refused in [PublishError::Busy, PublishError::Failed("no leader".to_owned())] {
            let detail = detail(refused);
            assert!(detail.ends_with("; it was not stored"), "{detail}");
        }
        let unknown = detail(PublishError::Unknown("timed out".to_owned()));
        assert!(unknown.ends_with("the event may have been stored: repeat the request"), "{unknown}");
        let rejected = publish_problem(&context, EVENT, &PublishError::Rejected("too large".to_owned()));
        assert_eq!(rejected.status(context.dialect), http::StatusCode::INTERNAL_SERVER_ERROR);
    }
}
