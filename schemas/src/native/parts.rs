//! Value, key and headers of a record.

use uuid::Uuid;

use super::unreadable::Unreadable;
use crate::event_json::MAX_BODY_BYTES;
use crate::ids::OrgId;

/// The value, if it is present and within the size limit.
pub(super) fn value_of(value: Option<&[u8]>) -> Result<&[u8], Unreadable> {
    let value = value.ok_or_else(|| Unreadable::new("null_value", "the record has no value"))?;
    // Avro is smaller than JSON apart from a few hundred bytes, so one limit fits all encodings.
    if value.len() > MAX_BODY_BYTES {
        let message = format!("the value has {} bytes, at most {MAX_BODY_BYTES} are allowed", value.len());
        return Err(Unreadable::new("value_too_large", message));
    }
    Ok(value)
}

/// The organization that is the record's key, in its only valid form. Another form of the same id hashes to another
/// partition, where the order of the organization's records would be lost.
pub(super) fn organization_of(key: Option<&[u8]>) -> Result<OrgId, Unreadable> {
    let org_id = organization_named_by(key)
        .ok_or_else(|| Unreadable::new("bad_key", "the key is not an organization id, a hyphenated UUID"))?;
    if key == Some(org_id.to_string().as_bytes()) {
        return Ok(org_id);
    }
    let message = format!(
        "the key is an organization id in another form than the canonical one, which has 36 characters in lower case; \
         write {org_id}"
    );
    Err(Unreadable::new("key_not_canonical", message))
}

/// The organization that a key names in any form of a UUID, for showing it what became of the record.
pub fn organization_named_by(key: Option<&[u8]>) -> Option<OrgId> {
    let text = std::str::from_utf8(key?).ok()?;
    Uuid::try_parse(text).ok().map(OrgId::from_uuid)
}

pub(super) fn same_organization(key: OrgId, value: OrgId) -> Result<(), Unreadable> {
    if key == value {
        return Ok(());
    }
    Err(Unreadable::new("organization_mismatch", format!("the key names the organization {key}, the value {value}")))
}

/// The last header of that name, whatever its case: a later one replaces an earlier one.
pub(super) fn header<'a>(headers: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    headers.iter().rev().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
}
