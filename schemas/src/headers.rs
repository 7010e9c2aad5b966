//! Names of the Kafka record headers that Triggers reads and writes. Other headers of a producer are kept unchanged.

/// Encoding of the value; `log.md` describes the three supported encodings.
pub const CONTENT_TYPE: &str = "content-type";
/// W3C trace context of the request that made the record.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace state.
pub const TRACESTATE: &str = "tracestate";
/// The id of the HTTP request that made the record.
pub const REQUEST_ID: &str = "x-request-id";
/// Id of the API key that wrote the record (never the secret).
pub const KEY_ID: &str = "triggers-key-id";
/// Through how many webhooks the event came, decimal; absent: through none. Webhooks have a header of the same name.
pub const HOPS: &str = "triggers-hops";

/// Signature of a record that the system itself wrote; see [`crate::native::SystemKey`].
pub const SYSTEM_SIGNATURE: &str = "triggers-system-signature";

/// `content-type` of Avro single-object encoding.
pub const CONTENT_TYPE_AVRO: &str = "application/avro";
/// `content-type` of plain JSON.
pub const CONTENT_TYPE_JSON: &str = "application/json";
/// `content-type` of a structured CloudEvent.
pub const CONTENT_TYPE_CLOUDEVENT: &str = "application/cloudevents+json";

/// Original topic of a record that was redriven from its dead letter. The event id of a native record is derived from
/// this and the next three headers; nothing else depends on them. All four must be present, or none.
pub const ORIGIN_TOPIC: &str = "triggers-origin-topic";
/// Original partition, decimal.
pub const ORIGIN_PARTITION: &str = "triggers-origin-partition";
/// Original offset, decimal.
pub const ORIGIN_OFFSET: &str = "triggers-origin-offset";
/// Original append time, milliseconds since the Unix epoch, decimal.
pub const ORIGIN_TIMESTAMP: &str = "triggers-origin-timestamp";

/// Prefix of all headers of a dead letter. A redrive removes these headers.
pub const DLQ_PREFIX: &str = "triggers-dlq-";
/// Topic of the original record.
pub const DLQ_TOPIC: &str = "triggers-dlq-topic";
/// Partition of the original record, decimal.
pub const DLQ_PARTITION: &str = "triggers-dlq-partition";
/// Offset of the original record, decimal.
pub const DLQ_OFFSET: &str = "triggers-dlq-offset";
/// Append time of the original record, milliseconds since the Unix epoch, decimal.
pub const DLQ_TIMESTAMP: &str = "triggers-dlq-timestamp";
/// Consumer group that rejected the record.
pub const DLQ_GROUP: &str = "triggers-dlq-group";
/// Stable class of the reason, `lower_snake`.
pub const DLQ_ERROR_CLASS: &str = "triggers-dlq-error-class";
/// The reason as a sentence.
pub const DLQ_ERROR_MESSAGE: &str = "triggers-dlq-error-message";
/// When the record was first rejected, milliseconds since the Unix epoch, decimal.
pub const DLQ_FIRST_SEEN: &str = "triggers-dlq-first-seen";
