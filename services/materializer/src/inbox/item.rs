//! One event of the inbox: how it comes out of the view and how a reply shows it. Which events are read is the business
//! of `query`.

use platform::http::Timestamp;
use platform::seal::SealingKey;
use schemas::ids::{EventId, OrgId};
use schemas::position::Place;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::cursor::Mark;
use super::position;

/// A row of `view.events`, without its organization.
#[derive(Debug)]
pub(super) struct EventRow {
    pub event_id: Uuid,
    /// Where it stands on the log.
    pub place: Place,
    /// Append time on the log.
    pub accepted_at: OffsetDateTime,
    pub event_type: String,
    /// The producer's text, byte for byte.
    pub payload: Box<RawValue>,
    /// What the producer says of time.
    pub occurred_at: Option<OffsetDateTime>,
    pub source: Option<String>,
    /// The key that orders it.
    pub ordering_key: Option<String>,
    /// String pairs as a JSON object.
    pub metadata: Option<Box<RawValue>>,
    /// The name its producer gave it.
    pub dedup_id: Option<String>,
    /// When it was acknowledged.
    pub acknowledged_at: Option<OffsetDateTime>,
    /// All its deliveries together.
    pub delivery_status: String,
    /// Attempts of all its deliveries.
    pub attempts: i32,
}

impl EventRow {
    /// Where it stands within its partition.
    pub(super) const fn mark(&self) -> Mark {
        Mark { log_epoch: self.place.log_epoch, offset: self.place.offset }
    }

    /// Bytes of its payload.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload.get().len()
    }
}

/// The columns that [`EventRow`] reads, as they follow a `SELECT`.
macro_rules! event_columns {
    () => {
        "event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload, occurred_at, source, ordering_key, metadata, \
         dedup_id, acknowledged_at, delivery_status, attempts"
    };
}
pub(crate) use event_columns;

impl FromRow<'_, PgRow> for EventRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let place = Place {
            log_epoch: row.try_get("log_epoch")?,
            partition: row.try_get("log_partition")?,
            offset: row.try_get("log_offset")?,
        };
        let Json(payload) = row.try_get("payload")?;
        let metadata: Option<Json<Box<RawValue>>> = row.try_get("metadata")?;
        Ok(Self {
            event_id: row.try_get("event_id")?,
            place,
            accepted_at: row.try_get("accepted_at")?,
            event_type: row.try_get("event_type")?,
            payload,
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

/// An event as the API shows it.
#[derive(Debug, Serialize)]
pub(super) struct Item {
    event_id: EventId,
    id: EventId,
    event_type: String,
    r#type: String,
    payload: Box<RawValue>,
    timestamp: Timestamp,
    created_at: Timestamp,
    occurred_at: Option<Timestamp>,
    source: Option<String>,
    ordering_key: Option<String>,
    metadata: Metadata,
    dedup_id: Option<String>,
    status: String,
    delivery_status: String,
    attempts: i32,
    acknowledged_at: Option<Timestamp>,
    leased_until: Option<Timestamp>,
    position: String,
    /// Only where the id that was asked for turned out to be a duplicate: the event that stands for it, which is this
    /// one.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate_of: Option<EventId>,
}

/// Always an object, so that a client need not ask.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Metadata {
    Pairs(Box<RawValue>),
    None {},
}

impl Item {
    /// Shows `row` to its organization.
    pub(super) fn new(row: EventRow, key: &SealingKey, organization: OrgId) -> Self {
        let id = EventId::from_uuid(row.event_id);
        Self {
            event_id: id,
            id,
            event_type: row.event_type.clone(),
            r#type: row.event_type,
            payload: row.payload,
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
            position: position::seal(key, organization, row.place),
            duplicate_of: None,
        }
    }

    /// Notes that `asked_for` turned out to be a duplicate of this event.
    pub(super) fn asked_for_as(mut self, asked_for: EventId) -> Self {
        self.duplicate_of = (asked_for != self.event_id).then_some(self.event_id);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(payload: &str) -> EventRow {
        EventRow {
            event_id: Uuid::from_u128(1),
            place: Place { log_epoch: 1, partition: 2, offset: 3 },
            accepted_at: OffsetDateTime::UNIX_EPOCH,
            event_type: "a.b".to_owned(),
            payload: RawValue::from_string(payload.to_owned()).unwrap(),
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
    fn the_payloads_bytes_are_the_producers_and_the_position_opens_again() {
        let (key, org) = (SealingKey::from_bytes([9; 32]), OrgId::generate());
        let payload = "{ \"b\" : 1.0e+5,\n \"a\":12345678901234567890123, \"b\":null}";
        let text = serde_json::to_string(&Item::new(row(payload), &key, org)).unwrap();
        assert!(text.contains(&format!("\"payload\":{payload},\"timestamp\":\"1970-01-01T00:00:00.000Z\"")), "{text}");
        assert!(
            text.contains("\"metadata\":{},")
                && text.contains("\"leased_until\":null,")
                && !text.contains("duplicate_of"),
            "{text}"
        );
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        let place = position::open(&key, org, shown["position"].as_str().unwrap());
        assert_eq!(place, Some(Place { log_epoch: 1, partition: 2, offset: 3 }));
        assert_eq!(position::open(&key, OrgId::generate(), shown["position"].as_str().unwrap()), None);
    }

    #[test]
    fn an_id_that_was_a_duplicate_is_answered_with_the_original() {
        let (key, org) = (SealingKey::from_bytes([9; 32]), OrgId::generate());
        let (original, duplicate) = (EventId::from_uuid(Uuid::from_u128(1)), EventId::generate());
        assert_eq!(Item::new(row("1"), &key, org).asked_for_as(duplicate).duplicate_of, Some(original));
        assert_eq!(Item::new(row("1"), &key, org).asked_for_as(original).duplicate_of, None);
    }
}
