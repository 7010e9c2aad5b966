//! The records on the log, one struct per Avro schema under `avro/`. The structs are not validated.
//!
//! No record contains its acceptance time: that is the record's append time on the log (`LogAppendTime`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{BatchId, DeliveryId, EndpointId, EventId, OrgId};

/// One accepted event: the value on `triggers.events.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The event's organization; equals the record's key.
    pub org_id: OrgId,
    /// The event's id, unique within the organization.
    pub event_id: EventId,
    /// 1 to 255 characters.
    pub event_type: String,
    /// The payload's JSON text, byte for byte as the producer sent it.
    pub payload: String,
    /// How binary data became the payload; `None`: the payload is the producer's JSON.
    #[serde(default)]
    pub payload_encoding: Option<PayloadEncoding>,
    /// When the event happened, according to the producer, microseconds since the Unix epoch. Informational.
    pub occurred_at: Option<i64>,
    /// Where the event comes from, according to the producer. Informational.
    pub source: Option<String>,
    /// Events with the same key keep their order on ordered endpoints.
    pub ordering_key: Option<String>,
    /// At most 32 pairs of at most 255 characters each.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// How duplicates of the event are detected, if they are.
    pub dedup: Option<Dedup>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
}

/// How binary data became a JSON payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadEncoding {
    /// The payload is a JSON string of the data in base64.
    Base64,
}

impl PayloadEncoding {
    /// The stable name, as in Avro, in PostgreSQL and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base64 => "base64",
        }
    }
}

/// How duplicates of an event are detected. It is part of the record, so that a replay takes the same duplicate
/// decision under another configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dedup {
    /// Namespace of the key.
    pub kind: DedupKind,
    /// The key within its organization and namespace, 1 to 255 characters (for content: the hash in hex).
    pub key: String,
    /// Dedup window, seconds.
    pub window_seconds: i64,
    /// SHA-256 of the request body, hex. It distinguishes a duplicate from another event with the same idempotency key.
    pub body_hash: String,
    /// The producer's `dedup_id`, if the key is an idempotency key. Informational.
    #[serde(default)]
    pub dedup_id: Option<String>,
}

/// The three namespaces of duplicate detection, in their order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DedupKind {
    /// Header `Idempotency-Key`.
    IdempotencyKey,
    /// Body field `dedup_id`, or a CloudEvent's source and id.
    DedupId,
    /// SHA-256 of type and payload.
    Content,
}

impl DedupKind {
    /// The stable name, as in Avro and in PostgreSQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IdempotencyKey => "idempotency_key",
            Self::DedupId => "dedup_id",
            Self::Content => "content",
        }
    }
}

/// One event acknowledged: the value on `triggers.acks.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The organization; equals the record's key.
    pub org_id: OrgId,
    /// The acknowledged event.
    pub event_id: EventId,
}

/// One webhook attempt, or the final outcome of a delivery without one: the value on `triggers.deliveries.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAttempt {
    /// The organization; equals the record's key.
    pub org_id: OrgId,
    /// The event of the delivery.
    pub event_id: EventId,
    /// The endpoint of the delivery.
    pub endpoint_id: EndpointId,
    /// The delivery of this attempt.
    pub delivery_id: DeliveryId,
    /// The event's type, so that native consumers have it without a lookup.
    pub event_type: String,
    /// 1 for the first attempt. A `cancelled` delivery repeats the number of its last attempt, 0 if there was none.
    pub attempt: i32,
    /// State of the delivery after this attempt.
    pub outcome: DeliveryOutcome,
    /// When the request started, microseconds since the Unix epoch.
    pub started_at: i64,
    /// From the start of the request to the end of the response or the failure, milliseconds.
    pub latency_ms: i64,
    /// HTTP status, if there was a response.
    pub status_code: Option<i32>,
    /// Why the attempt failed, as a short sentence without secrets.
    pub error: Option<String>,
    /// The first bytes of the response body as text, at most 4 KiB.
    pub response_excerpt: Option<String>,
    /// When the next attempt is due, microseconds since the Unix epoch; set while `retrying`.
    pub next_attempt_at: Option<i64>,
    /// Resolving the name and opening the connection, microseconds; `None`: a connection was reused, or none opened.
    #[serde(default)]
    pub connect_us: Option<i64>,
    /// Writing the request, microseconds.
    #[serde(default)]
    pub send_us: Option<i64>,
    /// From the end of the request to the head of the response, microseconds.
    #[serde(default)]
    pub wait_us: Option<i64>,
    /// IP address that the request was sent to; `None` unless it is public.
    #[serde(default)]
    pub remote_address: Option<String>,
    /// Endpoints that matched the event when it was read from the log, this one included; `None`: not known.
    #[serde(default)]
    pub endpoints_matched: Option<i32>,
    /// How often the delivery had been retried by hand when the attempt was made. The last round decides its state.
    #[serde(default)]
    pub round: i32,
    /// The `webhook-id` of a request with a batch of events; `None`: the request had this event only, or there was
    /// none.
    #[serde(default)]
    pub batch_id: Option<BatchId>,
}

/// State of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// The endpoint answered 2xx.
    Delivered,
    /// The attempt failed, and another one is scheduled.
    Retrying,
    /// The last attempt failed, or the endpoint is gone.
    Failed,
    /// The event was acknowledged, or the endpoint deleted, before an attempt succeeded.
    Cancelled,
}

impl DeliveryOutcome {
    /// The stable name, as in Avro, in PostgreSQL and in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
