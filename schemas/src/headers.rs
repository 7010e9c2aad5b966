//! Names of the Kafka record headers that Triggers reads and writes. Headers a producer added on its own survive
//! untouched.

/// Tells the encoding of the value; see `log.md` for the three that are read.
pub const CONTENT_TYPE: &str = "content-type";
/// W3C trace context of the request that made the record.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace state.
pub const TRACESTATE: &str = "tracestate";
/// The id of the HTTP request that made the record.
pub const REQUEST_ID: &str = "x-request-id";
/// Which API key wrote the record (its id, never the secret).
pub const KEY_ID: &str = "triggers-key-id";

/// `content-type` of Avro single-object encoding.
pub const CONTENT_TYPE_AVRO: &str = "application/avro";
/// `content-type` of plain JSON.
pub const CONTENT_TYPE_JSON: &str = "application/json";
/// `content-type` of a structured CloudEvent.
pub const CONTENT_TYPE_CLOUDEVENT: &str = "application/cloudevents+json";

/// Topic that a record stood on before it was written again from its dead letter. With the next three it names the
/// first place of the record, from which the event id of a native record is made; they come all four or not at all, and
/// decide nothing else.
pub const ORIGIN_TOPIC: &str = "triggers-origin-topic";
/// Partition of the first place, decimal.
pub const ORIGIN_PARTITION: &str = "triggers-origin-partition";
/// Offset of the first place, decimal.
pub const ORIGIN_OFFSET: &str = "triggers-origin-offset";
/// Append time at the first place, milliseconds since the Unix epoch, decimal.
pub const ORIGIN_TIMESTAMP: &str = "triggers-origin-timestamp";

/// How the name of every header begins that tells of a dead letter. None of them survives when it is written again.
pub const DLQ_PREFIX: &str = "triggers-dlq-";
/// Topic a dead letter came from.
pub const DLQ_TOPIC: &str = "triggers-dlq-topic";
/// Partition a dead letter came from, decimal.
pub const DLQ_PARTITION: &str = "triggers-dlq-partition";
/// Offset a dead letter came from, decimal.
pub const DLQ_OFFSET: &str = "triggers-dlq-offset";
/// Append time of the original record, milliseconds since the Unix epoch, decimal.
pub const DLQ_TIMESTAMP: &str = "triggers-dlq-timestamp";
/// Consumer group that refused the record.
pub const DLQ_GROUP: &str = "triggers-dlq-group";
/// Stable class of the reason, `lower_snake`.
pub const DLQ_ERROR_CLASS: &str = "triggers-dlq-error-class";
/// The reason as a sentence.
pub const DLQ_ERROR_MESSAGE: &str = "triggers-dlq-error-message";
/// When the record was first refused, milliseconds since the Unix epoch, decimal.
pub const DLQ_FIRST_SEEN: &str = "triggers-dlq-first-seen";
