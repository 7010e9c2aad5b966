//! Encodes and decodes records in Avro single-object encoding: the marker `C3 01`, the schema's fingerprint and the
//! datum.
//!
//! A decoder finds the writer's schema by its fingerprint, among all versions of the record. Fields that the writer's
//! version lacks get the defaults of [`crate::records`]. [`crate::native`] validates decoded records.

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::records::{Ack, DeliveryAttempt, Event};

/// First two bytes of Avro single-object encoding.
pub const MARKER: [u8; 2] = [0xC3, 0x01];

/// The schemas of a record. The newest one encodes, all of them decode, and none is ever removed.
struct Versions<'a> {
    older: &'a [&'a str],
    newest: &'a str,
}

const EVENT_VERSIONS: Versions<'static> = Versions {
    older: &[include_str!("../avro/event.v1.avsc"), include_str!("../avro/event.v2.avsc")],
    newest: include_str!("../avro/event.v3.avsc"),
};
const ACK_VERSIONS: Versions<'static> = Versions { older: &[], newest: include_str!("../avro/ack.v1.avsc") };
const ATTEMPT_VERSIONS: Versions<'static> = Versions {
    older: &[
        include_str!("../avro/delivery_attempt.v1.avsc"),
        include_str!("../avro/delivery_attempt.v2.avsc"),
        include_str!("../avro/delivery_attempt.v3.avsc"),
    ],
    newest: include_str!("../avro/delivery_attempt.v4.avsc"),
};

static EVENT: LazyLock<Codec> = LazyLock::new(|| embedded(&EVENT_VERSIONS));
static ACK: LazyLock<Codec> = LazyLock::new(|| embedded(&ACK_VERSIONS));
static ATTEMPT: LazyLock<Codec> = LazyLock::new(|| embedded(&ATTEMPT_VERSIONS));

/// The most memory that a forged length prefix can make a decoder reserve. It is larger than any record that brokers
/// accept. The library has one such limit per process.
const MAX_ALLOCATION_BYTES: usize = 2 * 1024 * 1024;

const FINGERPRINT_BYTES: usize = 8;
type Fingerprint = [u8; FINGERPRINT_BYTES];

/// A record does not fit its own schema, which is a bug.
#[derive(Debug, thiserror::Error)]
#[error("the record does not fit its Avro schema: {0}")]
pub struct EncodeError(#[source] apache_avro::Error);

/// Why bytes cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Another encoding, or no bytes at all.
    #[error("the value does not start with the marker and fingerprint of Avro single-object encoding")]
    NoMarker,
    /// The fingerprint is not of a version of this record: the value is another record, or newer than this program.
    #[error("the schema with the fingerprint {fingerprint:016x} is unknown for this topic")]
    UnknownSchema {
        /// Rabin fingerprint of the writer's schema.
        fingerprint: u64,
    },
    /// The datum does not match its schema.
    #[error("the Avro datum cannot be decoded: {0}")]
    Malformed(#[source] apache_avro::Error),
    /// The datum ends before the value does.
    #[error("{bytes} bytes follow the Avro datum")]
    Trailing {
        /// Number of bytes after the datum.
        bytes: usize,
    },
}

/// Encodes an event with the newest schema.
///
/// # Errors
/// [`EncodeError`] if the struct and the schema disagree.
pub fn encode_event(event: &Event) -> Result<Vec<u8>, EncodeError> {
    // By position, in the order of the schema: apache-avro takes less than half the time that it takes by name, and
    // refuses another number of fields.
    let fields = (
        &event.org_id,
        &event.event_id,
        &event.event_type,
        &event.payload,
        &event.payload_encoding,
        &event.occurred_at,
        &event.source,
        &event.ordering_key,
        &event.metadata,
        &event.dedup,
        &event.traceparent,
    );
    EVENT.encode(&fields, event.payload.len())
}

/// Encodes an acknowledgement with the newest schema.
///
/// # Errors
/// [`EncodeError`] if the struct and the schema disagree.
pub fn encode_ack(ack: &Ack) -> Result<Vec<u8>, EncodeError> {
    ACK.encode(ack, 0)
}

/// Encodes a delivery attempt with the newest schema.
///
/// # Errors
/// [`EncodeError`] if the struct and the schema disagree.
pub fn encode_attempt(attempt: &DeliveryAttempt) -> Result<Vec<u8>, EncodeError> {
    ATTEMPT.encode(attempt, attempt.response_excerpt.as_ref().map_or(0, String::len))
}

/// Decodes an event of any version. The values are not validated.
///
/// # Errors
/// [`DecodeError`]. It never panics.
pub fn decode_event(value: &[u8]) -> Result<Event, DecodeError> {
    EVENT.decode(value)
}

/// Decodes an acknowledgement of any version.
///
/// # Errors
/// [`DecodeError`]. It never panics.
pub fn decode_ack(value: &[u8]) -> Result<Ack, DecodeError> {
    ACK.decode(value)
}

/// Decodes a delivery attempt of any version. The values are not validated.
///
/// # Errors
/// [`DecodeError`]. It never panics.
pub fn decode_attempt(value: &[u8]) -> Result<DeliveryAttempt, DecodeError> {
    ATTEMPT.decode(value)
}

/// The parsed schemas of one record. They are parsed once, because that costs more than encoding.
struct Codec {
    prefix: [u8; 2 + FINGERPRINT_BYTES],
    writer: GenericDatumWriter<'static>,
    readers: Vec<Reader>,
}

impl Codec {
    fn open(versions: &Versions<'_>) -> Result<Self, apache_avro::Error> {
        // The newest first: most records are of that version.
        let (schema, newest) = Reader::open(versions.newest)?;
        let mut prefix = [0; 2 + FINGERPRINT_BYTES];
        prefix[..2].copy_from_slice(&MARKER);
        prefix[2..].copy_from_slice(&newest.fingerprint);
        let mut readers = vec![newest];
        for text in versions.older {
            readers.push(Reader::open(text)?.1);
        }
        Ok(Self { prefix, writer: GenericDatumWriter::builder(schema).human_readable(false).build()?, readers })
    }

    fn encode<T: Serialize>(&self, record: &T, body_bytes: usize) -> Result<Vec<u8>, EncodeError> {
        // 256 bytes for ids and short fields; with this estimate the buffer rarely grows.
        let mut value = Vec::with_capacity(body_bytes + 256);
        value.extend_from_slice(&self.prefix);
        self.writer.write_ser(&mut value, record).map_err(EncodeError)?;
        Ok(value)
    }

    fn decode<T: DeserializeOwned>(&self, value: &[u8]) -> Result<T, DecodeError> {
        let rest = value.strip_prefix(&MARKER).ok_or(DecodeError::NoMarker)?;
        let (fingerprint, mut datum) = rest.split_first_chunk::<FINGERPRINT_BYTES>().ok_or(DecodeError::NoMarker)?;
        let Some(reader) = self.readers.iter().find(|reader| reader.reads(*fingerprint)) else {
            return Err(DecodeError::UnknownSchema { fingerprint: u64::from_le_bytes(*fingerprint) });
        };
        let record = reader.datum.read_deser(&mut datum).map_err(DecodeError::Malformed)?;
        if datum.is_empty() { Ok(record) } else { Err(DecodeError::Trailing { bytes: datum.len() }) }
    }
}

/// Decodes one version of a record.
struct Reader {
    fingerprint: Fingerprint,
    /// The fingerprint that apache-avro computes. It does not reduce `{"type": "long", "logicalType": "..."}` to
    /// `"long"`, as the specification requires. Producers that use this library write this fingerprint, all others the
    /// right one.
    alias: Fingerprint,
    datum: GenericDatumReader<'static>,
}

impl Reader {
    /// Leaks the schema on purpose: readers and writers borrow the few schemas for the life of the process.
    fn open(text: &str) -> Result<(&'static Schema, Self), apache_avro::Error> {
        let schema: &'static Schema = Box::leak(Box::new(Schema::parse_str(text)?));
        let reader = Self {
            fingerprint: fingerprint(&without_logical_types(text)?),
            alias: fingerprint(schema),
            datum: GenericDatumReader::builder(schema).human_readable(false).build()?,
        };
        Ok((schema, reader))
    }

    fn reads(&self, fingerprint: Fingerprint) -> bool {
        self.fingerprint == fingerprint || self.alias == fingerprint
    }
}

/// The schema without logical types, which are not part of the canonical form.
fn without_logical_types(text: &str) -> Result<Schema, apache_avro::Error> {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(object) => {
                object.remove("logicalType");
                object.values_mut().for_each(strip);
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut json = serde_json::from_str(text).map_err(apache_avro::error::Details::ParseSchemaJson)?;
    strip(&mut json);
    Schema::parse(&json)
}

/// Rabin fingerprint of the canonical form, little-endian as in the encoding.
fn fingerprint(schema: &Schema) -> Fingerprint {
    let mut bytes = [0; FINGERPRINT_BYTES];
    // The library returns little-endian bytes.
    for (to, from) in bytes.iter_mut().zip(schema.fingerprint::<Rabin>().bytes) {
        *to = from;
    }
    bytes
}

#[expect(clippy::expect_used, reason = "the schemas are compiled in, and a test opens each; no input reaches this")]
fn embedded(versions: &Versions<'_>) -> Codec {
    apache_avro::util::max_allocation_bytes(MAX_ALLOCATION_BYTES);
    Codec::open(versions).expect("an embedded Avro schema is invalid")
}

#[cfg(test)]
mod tests;
