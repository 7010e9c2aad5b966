//! Ids: one type for each kind, so that they cannot be confused.
//!
//! All are UUIDs. Their text form in JSON, in Avro (plain `string`) and in Kafka keys is hyphenated and lower-case; in
//! PostgreSQL they are `uuid`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::openapi::{ObjectBuilder, SchemaFormat, Type};
use uuid::Uuid;

/// The text is not a hyphenated UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")]
pub struct InvalidId;

macro_rules! id {
    ($(#[doc = $doc_text:literal])* $name:ident) => {
        $(#[doc = $doc_text])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes an id from a UUID.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID, for binding to SQL.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }

            /// A new id (UUIDv7), which sorts by its creation time.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // `Uuid::parse_str` also accepts braces, URNs and bare hex. With one spelling per id, keys and logs can
                // be compared.
                if text.len() != 36 {
                    return Err(InvalidId);
                }
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut text = [0_u8; uuid::fmt::Hyphenated::LENGTH];
                serializer.serialize_str(self.0.hyphenated().encode_lower(&mut text))
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                uuid_schema(concat!($($doc_text, " "),*))
            }
        }

        impl utoipa::ToSchema for $name {}

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a hyphenated UUID")
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

id!(
    /// An organization: the tenant, and the key of every record on the log.
    OrgId
);
id!(
    /// An event. UUIDv7 if ingest made it; UUIDv5 of the log position for a native record without an id.
    EventId
);
id!(
    /// An API key (its public id, not the secret).
    KeyId
);
id!(
    /// A webhook endpoint.
    EndpointId
);
id!(
    /// A delivery: one event to one endpoint, over all attempts.
    DeliveryId
);
id!(
    /// A batch: the events of one webhook request. UUIDv5 of the endpoint and the events.
    BatchId
);
id!(
    /// A replay: deliveries of an endpoint that are sent again in bulk.
    ReplayId
);

/// An id in OpenAPI.
fn uuid_schema(description: &str) -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::Custom("uuid".to_owned())))
        .description(Some(description.trim()))
        .examples(["0192f0c1-2345-7abc-8def-0123456789ab"])
        .into()
}

impl EventId {
    /// The id of a native record without an id. It is derived from the record's position and append time (milliseconds
    /// since the Unix epoch), so every read gives the same id.
    pub fn derived_from_position(topic: &str, partition: i32, offset: i64, timestamp_ms: i64) -> Self {
        let namespace = Uuid::new_v5(&Uuid::NAMESPACE_DNS, crate::topics::EVENTS.as_bytes());
        Self(Uuid::new_v5(&namespace, format!("{topic}/{partition}/{offset}/{timestamp_ms}").as_bytes()))
    }

    /// The creation time in a UUIDv7, milliseconds since the Unix epoch; `None` for other versions. The clock is that
    /// of the process that made the id, and is not verified.
    pub fn made_at_ms(&self) -> Option<i64> {
        // The first 48 bits.
        (self.0.get_version_num() == 7).then(|| i64::try_from(self.0.as_u128() >> 80).unwrap_or(i64::MAX))
    }
}

impl BatchId {
    /// The id of a request to `endpoint` with these events. The same events in the same order always have the same one.
    pub fn of(endpoint: EndpointId, events: impl IntoIterator<Item = EventId>) -> Self {
        // With a prefix: the id of a delivery is made of one event without it.
        let ids = events.into_iter().flat_map(|event| event.as_uuid().into_bytes());
        Self(Uuid::new_v5(&endpoint.as_uuid(), &b"batch".iter().copied().chain(ids).collect::<Vec<u8>>()))
    }
}

impl DeliveryId {
    /// The id of the delivery of `event` to `endpoint`. It is always the same, so a delivery cannot be scheduled twice.
    pub fn of(endpoint: EndpointId, event: EventId) -> Self {
        Self(Uuid::new_v5(&endpoint.as_uuid(), event.as_uuid().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        let id = "0192f0c1-2345-7abc-8def-0123456789ab";
        assert_eq!(id.parse::<OrgId>().unwrap().to_string(), id);
        assert_eq!(id.to_uppercase().parse::<OrgId>().unwrap().to_string(), id);
        for bad in [
            "",
            "0192f0c123457abc8def0123456789ab",
            "{0192f0c1-2345-7abc-8def-0123456789ab}",
            "0192f0c1-2345-7abc-8def-0123456789ag",
        ] {
            assert_eq!(bad.parse::<OrgId>(), Err(InvalidId), "{bad}");
        }
    }

    #[test]
    fn a_position_always_gives_the_same_event_id() {
        let one = EventId::derived_from_position("triggers.events.v1", 3, 42, 1_700_000_000_000);
        assert_eq!(one, EventId::derived_from_position("triggers.events.v1", 3, 42, 1_700_000_000_000));
        assert_ne!(one, EventId::derived_from_position("triggers.events.v1", 3, 43, 1_700_000_000_000));
        assert_eq!(one.as_uuid().get_version_num(), 5);
        assert_eq!(one.made_at_ms(), None);
    }

    #[test]
    fn only_a_version_7_id_has_a_creation_time() {
        let id: EventId = "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap();
        assert_eq!(id.made_at_ms(), Some(0x0192_f0c1_2345));
        let id: EventId = "0192f0c1-2345-4abc-8def-0123456789ab".parse().unwrap();
        assert_eq!(id.made_at_ms(), None);
    }
}
