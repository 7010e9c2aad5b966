//! The encoding of a record's value, from its headers, else from its first bytes.

use super::parts::header;
use crate::cloudevents::media_type;
use crate::codec::MARKER;
use crate::event_json::members::Members;
use crate::headers;

/// The supported encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Avro single-object encoding.
    Avro,
    /// JSON with the fields of the HTTP body.
    Json,
    /// A CloudEvent in the JSON format.
    CloudEvent,
    /// A CloudEvent whose attributes are `ce_*` headers.
    BinaryCloudEvent,
}

pub(super) fn encoding_of(value: &[u8], headers: &[(String, Vec<u8>)]) -> Encoding {
    let content_type = header(headers, headers::CONTENT_TYPE).map(|text| media_type(&String::from_utf8_lossy(text)));
    match content_type.as_deref() {
        Some(headers::CONTENT_TYPE_CLOUDEVENT) => return Encoding::CloudEvent,
        // In binary mode, the content type is the type of the data.
        _ if header(headers, "ce_specversion").is_some() => return Encoding::BinaryCloudEvent,
        Some(headers::CONTENT_TYPE_AVRO) => return Encoding::Avro,
        Some(headers::CONTENT_TYPE_JSON) => return Encoding::Json,
        // Other content types, such as a client's default octet-stream, are ignored.
        _ => {}
    }
    if value.starts_with(&MARKER) {
        Encoding::Avro
    } else if std::str::from_utf8(value).is_ok_and(has_specversion) {
        Encoding::CloudEvent
    } else {
        Encoding::Json
    }
}

fn has_specversion(json: &str) -> bool {
    Members::read(json, |name| name == "specversion", 1).is_ok_and(|members| members.get("specversion").is_some())
}
