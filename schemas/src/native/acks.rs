//! Records of `triggers.acks.v1`: one acknowledgement in Avro, or up to a thousand event ids in JSON.

use super::encoding::{Encoding, encoding_of};
use super::parts::{organization_of, same_organization, value_of};
use super::unreadable::Unreadable;
use crate::codec;
use crate::event_json::envelope::{Envelope, items};
use crate::ids::EventId;
use crate::records::Ack;

/// The most events that one JSON record may acknowledge.
pub const MAX_ACKS_PER_RECORD: usize = 1000;

/// Decodes one record of `triggers.acks.v1`: Avro, or JSON `{"event_id": "..."}` or `{"event_ids": ["..."]}` with the
/// organization as key. The ids keep their order, and duplicates are kept.
///
/// # Errors
/// [`Unreadable`]. It never panics.
pub fn read_acks(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(String, Vec<u8>)],
) -> Result<Vec<Ack>, Unreadable> {
    let value = value_of(value)?;
    let org_id = organization_of(key)?;
    if encoding_of(value, headers) == Encoding::Avro {
        let ack = codec::decode_ack(value)?;
        same_organization(org_id, ack.org_id)?;
        return Ok(vec![ack]);
    }
    let ids = ids_of_json(value)?;
    Ok(ids.into_iter().map(|event_id| Ack { org_id, event_id }).collect())
}

fn ids_of_json(value: &[u8]) -> Result<Vec<EventId>, Unreadable> {
    let envelope = Envelope::read(value, |name| matches!(name, "event_id" | "event_ids"), 2)?;
    let ids = match (envelope.members.non_null("event_id"), envelope.members.non_null("event_ids")) {
        (Some(id), None) => vec![id],
        (None, Some(ids)) => items(ids, MAX_ACKS_PER_RECORD)
            .map_err(|_| invalid(format!("event_ids must be an array of at most {MAX_ACKS_PER_RECORD} event ids")))?,
        (Some(_), Some(_)) => return Err(invalid("event_id and event_ids must not be combined")),
        (None, None) => return Err(invalid("event_id or event_ids is required")),
    };
    if ids.is_empty() {
        return Err(invalid("event_ids must not be empty"));
    }
    ids.into_iter()
        .enumerate()
        .map(|(at, id)| {
            serde_json::from_str(id)
                .map_err(|_| invalid(format!("id {} is not an event id, a hyphenated UUID", at + 1)))
        })
        .collect()
}

fn invalid(message: impl Into<String>) -> Unreadable {
    Unreadable::new("invalid_ack", message)
}
