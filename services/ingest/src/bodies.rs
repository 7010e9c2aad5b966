//! The bodies that the accept routes read, for OpenAPI only: `schemas` parses them.

use std::collections::HashMap;

use http_server::Timestamp;
use serde_json::Value;
use utoipa::ToSchema;

use crate::batch::BatchBody;
use crate::reply::AcceptedBody;

/// A new event. Unknown members are ignored. `type` is another name of `event_type`, and `data` of `payload`.
#[derive(ToSchema)]
#[schema(as = NewEvent, example = json!({
    "event_type": "order.created",
    "payload": {"id": 7},
    "dedup_id": "ord-7",
    "timestamp": "2026-11-21T09:00:00Z",
    "source": "shop",
    "ordering_key": "customer-9",
    "metadata": {"region": "eu"}
}))]
#[expect(dead_code, reason = "describes a body that schemas parses")]
pub(crate) struct NewEventBody {
    /// No control characters, no blank at either end.
    // Not `\p{Cc}`: not every reader of JSON Schema knows it.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    event_type: String,
    /// Any JSON, kept byte for byte. Up to 256 KiB, nested up to 64 deep.
    payload: Value,
    /// Within 24 hours, a second event with it is a duplicate.
    #[schema(min_length = 1, max_length = 255)]
    dedup_id: Option<String>,
    /// When it happened: RFC 3339. Kept as `occurred_at`.
    timestamp: Option<Timestamp>,
    #[schema(min_length = 1, max_length = 255)]
    source: Option<String>,
    /// Events with the same one belong together.
    #[schema(min_length = 1, max_length = 255)]
    ordering_key: Option<String>,
    /// Up to 32 pairs of texts, each of up to 255 characters.
    metadata: Option<HashMap<String, String>>,
}

/// A CloudEvent 1.0 in JSON. `source` and `id` together are the `dedup_id`, `partitionkey` is the `ordering_key`; other
/// extensions become metadata.
#[derive(ToSchema)]
#[schema(as = CloudEvent, example = json!({
    "specversion": "1.0",
    "id": "ord-7",
    "source": "/shop",
    "type": "order.created",
    "time": "2026-11-21T09:00:00Z",
    "datacontenttype": "application/json",
    "data": {"id": 7}
}))]
#[expect(dead_code, reason = "describes a body that schemas parses")]
pub(crate) struct CloudEventBody {
    /// Always `1.0`.
    #[schema(pattern = r"^1\.0$")]
    specversion: String,
    #[schema(min_length = 1)]
    id: String,
    #[schema(min_length = 1)]
    source: String,
    #[schema(min_length = 1, max_length = 255)]
    r#type: String,
    time: Option<Timestamp>,
    datacontenttype: Option<String>,
    /// Any JSON.
    #[schema(required = false)]
    data: Value,
    /// Binary data instead of `data`.
    #[schema(nullable = false)]
    data_base64: Option<String>,
}

/// The events of a batch.
#[derive(ToSchema)]
#[schema(as = NewBatch, example = json!({"events": [{"event_type": "order.created", "payload": {"id": 7}}]}))]
#[expect(dead_code, reason = "describes a body that schemas parses")]
pub(crate) struct NewBatchBody {
    #[schema(min_items = 1, max_items = 1000)]
    events: Vec<NewEventBody>,
}

/// One event was sent, or a batch of CloudEvents.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the response to either")]
pub(crate) enum EventOrBatch<'a> {
    Event(AcceptedBody<'a>),
    Batch(BatchBody<'a>),
}
