//! The records on the log as Rust values, one struct per Avro schema under `avro/`. Encoding is the codec's business,
//! validity that of its author.
//!
//! None carries the acceptance time: that is the record's append time on the log (`LogAppendTime`), the one clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{DeliveryId, EndpointId, EventId, OrgId};

/// One accepted event: the value on `triggers.events.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The organization it belongs to; equals the record's key.
    pub org_id: OrgId,
    /// Its id, unique within the organization.
    pub event_id: EventId,
    /// 1 to 255 characters.
    pub event_type: String,
    /// The payload's JSON text, byte for byte as the producer sent it.
    pub payload: String,
    /// What the producer says of time, microseconds since the Unix epoch. Decides nothing.
    pub occurred_at: Option<i64>,
    /// Who says so.
    pub source: Option<String>,
    /// Events with the same key keep their order on ordered endpoints.
    pub ordering_key: Option<String>,
    /// At most 32 pairs of at most 255 characters each.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Set when the producer named a way to recognize a repeat.
    pub dedup: Option<Dedup>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
}

/// How a repeat of an event is recognized. It travels with the event so that a later reading decides alike, whatever
/// the configuration then is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dedup {
    /// Namespace of the key.
    pub kind: DedupKind,
    /// The key within its organization and namespace, 1 to 255 characters (for content: the hash in hex).
    pub key: String,
    /// How long the key is remembered, seconds.
    pub window_seconds: i64,
    /// SHA-256 of the request body, hex: tells a repeat from another event under the same idempotency key.
    pub body_hash: String,
    /// The producer's name for the event (`dedup_id`) beside an idempotency key, which names its repeats alone: shown,
    /// and decides nothing.
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
    /// The event that is done.
    pub event_id: EventId,
}

/// One webhook attempt, or the final verdict on a delivery: the value on `triggers.deliveries.v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAttempt {
    /// The organization; equals the record's key.
    pub org_id: OrgId,
    /// The event that is delivered.
    pub event_id: EventId,
    /// To where.
    pub endpoint_id: EndpointId,
    /// The delivery that this attempt belongs to.
    pub delivery_id: DeliveryId,
    /// The event's type, so that a native consumer of outcomes need not look it up.
    pub event_type: String,
    /// 1 for the first attempt. A `cancelled` delivery repeats the number of its last attempt, 0 if there was none.
    pub attempt: i32,
    /// How the delivery stands after this attempt.
    pub outcome: DeliveryOutcome,
    /// When the request began, microseconds since the Unix epoch.
    pub started_at: i64,
    /// From the request's begin to the answer's end or the failure, milliseconds.
    pub latency_ms: i64,
    /// HTTP status, when there was an answer.
    pub status_code: Option<i32>,
    /// Why it failed, as a short sentence without secrets.
    pub error: Option<String>,
    /// The answer's first bytes as text, at most 4 KiB.
    pub response_excerpt: Option<String>,
    /// When the next attempt is due, microseconds since the Unix epoch; set while `retrying`.
    pub next_attempt_at: Option<i64>,
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// The endpoint answered 2xx.
    Delivered,
    /// The attempt failed and another one is due.
    Retrying,
    /// The last attempt failed, or the endpoint is gone.
    Failed,
    /// Acknowledged, or the endpoint was deleted, before it succeeded.
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
