//! One event of the inbox: its row in the view, and its JSON form. `query` selects the rows.

use http_server::Timestamp;
use runtime::seal::StableTokens;
use schemas::ids::EventId;
use schemas::position::{LogPosition, RecordPosition};
use schemas::unix_time::to_millis;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::cursor::EpochOffset;
use super::request::DeliveryStatus;

/// A row of `view.events`, without its organization.
#[derive(Debug)]
pub(super) struct InboxRow {
    pub event_id: Uuid,
    /// Its position on the log.
    pub log_position: LogPosition,
    /// Append time on the log.
    pub accepted_at: OffsetDateTime,
    pub event_type: String,
    /// The producer's text, byte for byte.
    pub payload: Box<RawValue>,
    /// How binary data became the payload.
    pub payload_encoding: Option<String>,
    /// Time that the producer gave.
    pub occurred_at: Option<OffsetDateTime>,
    pub source: Option<String>,
    pub ordering_key: Option<String>,
    /// String pairs as a JSON object.
    pub metadata: Option<Box<RawValue>>,
    /// Dedup id that the producer gave.
    pub dedup_id: Option<String>,
    /// When it was acknowledged.
    pub acknowledged_at: Option<OffsetDateTime>,
    /// Summary of all its deliveries.
    pub delivery_status: String,
    /// Attempts of all its deliveries.
    pub attempts: i32,
}

impl InboxRow {
    /// Its offset within its partition.
    pub(super) const fn epoch_offset(&self) -> EpochOffset {
        EpochOffset { log_epoch: self.log_position.log_epoch, offset: self.log_position.offset }
    }

    /// What its position token holds.
    fn record_position(&self) -> RecordPosition {
        let LogPosition { partition, offset, .. } = self.log_position;
        RecordPosition { partition, offset, appended_at_ms: to_millis(self.accepted_at) }
    }

    /// About the bytes that it takes in a page; its other members are bounded and small.
    pub(super) fn bytes(&self) -> usize {
        const OTHER_MEMBERS: usize = 1024;
        OTHER_MEMBERS + self.payload.get().len() + self.metadata.as_ref().map_or(0, |pairs| pairs.get().len())
    }
}

/// The columns that [`InboxRow`] reads, as they follow a `SELECT`.
macro_rules! event_columns {
    () => {
        "event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload, \
         payload_encoding, occurred_at, source, ordering_key, metadata, dedup_id, acknowledged_at, \
         delivery_status, attempts"
    };
}
pub(crate) use event_columns;

impl FromRow<'_, PgRow> for InboxRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let log_position = LogPosition {
            log_epoch: row.try_get("log_epoch")?,
            partition: row.try_get("log_partition")?,
            offset: row.try_get("log_offset")?,
        };
        let Json(payload) = row.try_get("payload")?;
        let metadata: Option<Json<Box<RawValue>>> = row.try_get("metadata")?;
        Ok(Self {
            event_id: row.try_get("event_id")?,
            log_position,
            accepted_at: row.try_get("accepted_at")?,
            event_type: row.try_get("event_type")?,
            payload,
            payload_encoding: row.try_get("payload_encoding")?,
            occurred_at: row.try_get("occurred_at")?,
            source: row.try_get("source")?,
            ordering_key: row.try_get("ordering_key")?,
            metadata: metadata.map(|Json(pairs)| pairs),
            dedup_id: row.try_get("dedup_id")?,
            acknowledged_at: row.try_get("acknowledged_at")?,
            delivery_status: row.try_get("delivery_status")?,
            attempts: row.try_get("attempts")?,
        })
    }
}

/// An event in the OpenAPI document.
pub(super) fn event_example() -> Value {
    json!({
        "event_id": "0192f0c1-2345-7abc-8def-0123456789ab",
        "id": "0192f0c1-2345-7abc-8def-0123456789ab",
        "event_type": "order.created",
        "type": "order.created",
        "payload": {"id": 7},
        "timestamp": "2026-11-21T09:00:00.123Z",
        "created_at": "2026-11-21T09:00:00.123Z",
        "occurred_at": null,
        "source": "shop",
        "ordering_key": "customer-9",
        "metadata": {"region": "eu"},
        "dedup_id": "ord-7",
        "status": "pending",
        "delivery_status": "pending",
        "attempts": 0,
        "acknowledged_at": null,
        "leased_until": null,
        "position": "q83vEjRWeJA"
    })
}

/// An event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event, example = event_example)]
pub(super) struct InboxItem {
    event_id: EventId,
    /// The same as `event_id`.
    id: EventId,
    event_type: String,
    /// The same as `event_type`.
    r#type: String,
    /// Any JSON, byte for byte as the producer wrote it.
    #[schema(value_type = Value)]
    payload: Box<RawValue>,
    /// `base64` if the payload is the base64 text of binary data; else absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    payload_encoding: Option<String>,
    /// When the log accepted it.
    timestamp: Timestamp,
    /// The same as `timestamp`.
    created_at: Timestamp,
    /// The time that the producer gave.
    occurred_at: Option<Timestamp>,
    source: Option<String>,
    ordering_key: Option<String>,
    /// Pairs of texts that the producer gave.
    #[schema(value_type = HashMap<String, String>)]
    metadata: Metadata,
    dedup_id: Option<String>,
    /// Summary of its deliveries to endpoints; `pending` without an endpoint.
    #[schema(value_type = DeliveryStatus)]
    status: String,
    /// The same as `status`.
    #[schema(value_type = DeliveryStatus)]
    delivery_status: String,
    /// Attempts of all its deliveries.
    attempts: i32,
    acknowledged_at: Option<Timestamp>,
    /// Always null: there are no leases yet.
    leased_until: Option<Timestamp>,
    /// Position token: where it is on the log, for `min_position`.
    position: String,
    /// Only if the request named a duplicate: the id of the original, which is this event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    duplicate_of: Option<EventId>,
}

/// Always an object, so that a client need not ask.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Metadata {
    Pairs(Box<RawValue>),
    None {},
}

impl InboxItem {
    /// Shows `row` to its organization, whose `tokens` these are.
    pub(super) fn new(row: InboxRow, tokens: &mut StableTokens) -> Self {
        let id = EventId::from_uuid(row.event_id);
        let position = tokens.seal(&row.record_position().to_bytes());
        Self {
            event_id: id,
            id,
            event_type: row.event_type.clone(),
            r#type: row.event_type,
            payload: row.payload,
            payload_encoding: row.payload_encoding,
            timestamp: Timestamp(row.accepted_at),
            created_at: Timestamp(row.accepted_at),
            occurred_at: row.occurred_at.map(Timestamp),
            source: row.source,
            ordering_key: row.ordering_key,
            metadata: row.metadata.map_or(Metadata::None {}, Metadata::Pairs),
            dedup_id: row.dedup_id,
            status: row.delivery_status.clone(),
            delivery_status: row.delivery_status,
            attempts: row.attempts,
            acknowledged_at: row.acknowledged_at.map(Timestamp),
            leased_until: None,
            position,
            duplicate_of: None,
        }
    }

    /// Sets `duplicate_of` if the request named a duplicate of this event.
    pub(super) fn asked_for_as(mut self, asked_for: EventId) -> Self {
        self.duplicate_of = (asked_for != self.event_id).then_some(self.event_id);
        self
    }
}

#[cfg(test)]
mod tests {
    use runtime::seal::SealingKey;
    use schemas::ids::OrgId;

    use super::*;
    use crate::position_token;

    fn row(payload: &str) -> InboxRow {
        InboxRow {
            event_id: Uuid::from_u128(1),
            log_position: LogPosition { log_epoch: 1, partition: 2, offset: 3 },
            accepted_at: OffsetDateTime::UNIX_EPOCH,
            event_type: "a.b".to_owned(),
            payload: RawValue::from_string(payload.to_owned()).unwrap(),
            payload_encoding: None,
            occurred_at: None,
            source: None,
            ordering_key: None,
            metadata: None,
            dedup_id: None,
            acknowledged_at: None,
            delivery_status: "pending".to_owned(),
            attempts: 0,
        }
    }

    #[test]
    fn payload_bytes_are_kept_and_the_position_token_opens() {
        let (key, org) = (SealingKey::from_bytes([9; 32]), OrgId::generate());
        let payload = "{ \"b\" : 1.0e+5,\n \"a\":12345678901234567890123, \"b\":null}";
        let text =
            serde_json::to_string(&InboxItem::new(row(payload), &mut position_token::tokens(&key, org))).unwrap();
        assert!(text.contains(&format!("\"payload\":{payload},\"timestamp\":\"1970-01-01T00:00:00.000Z\"")), "{text}");
        assert!(
            text.contains("\"metadata\":{},")
                && text.contains("\"leased_until\":null,")
                && !text.contains("duplicate_of"),
            "{text}"
        );
        let shown: Value = serde_json::from_str(&text).unwrap();
        let opened = position_token::open(&key, org, shown["position"].as_str().unwrap());
        assert_eq!(opened, Some(RecordPosition { partition: 2, offset: 3, appended_at_ms: 0 }));
        assert_eq!(position_token::open(&key, OrgId::generate(), shown["position"].as_str().unwrap()), None);
    }

    #[test]
    fn an_id_that_was_a_duplicate_is_answered_with_the_original() {
        let mut tokens = position_token::tokens(&SealingKey::from_bytes([9; 32]), OrgId::generate());
        let (original, duplicate) = (EventId::from_uuid(Uuid::from_u128(1)), EventId::generate());
        assert_eq!(InboxItem::new(row("1"), &mut tokens).asked_for_as(duplicate).duplicate_of, Some(original));
        assert_eq!(InboxItem::new(row("1"), &mut tokens).asked_for_as(original).duplicate_of, None);
    }
}
