//! Records of `triggers.deliveries.v1`.

use std::net::IpAddr;

use super::parts::{organization_of, same_organization, value_of};
use super::unreadable::Unreadable;
use crate::codec;
use crate::event_json::limits::{FieldErrors, is_time_in_range};
use crate::records::DeliveryAttempt;

/// The longest response excerpt that is stored, bytes.
pub const MAX_RESPONSE_EXCERPT_BYTES: usize = 4096;
/// The longest error that is stored, bytes.
pub const MAX_ERROR_BYTES: usize = 1024;

/// Decodes one record of `triggers.deliveries.v1`, always Avro. Error and excerpt are truncated to their limits, and
/// NUL in them is replaced, because the response of an endpoint must not make the attempt unreadable. A remote address
/// that is no IP address is dropped.
///
/// # Errors
/// [`Unreadable`]. It never panics.
pub fn read_attempt(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<DeliveryAttempt, Unreadable> {
    let value = value_of(value)?;
    let org_id = organization_of(key)?;
    let mut attempt = codec::decode_attempt(value)?;
    same_organization(org_id, attempt.org_id)?;
    check(&attempt).map_err(|message| Unreadable::new("invalid_attempt", message))?;
    attempt.error = attempt.error.map(|text| storable(text, MAX_ERROR_BYTES));
    attempt.response_excerpt = attempt.response_excerpt.map(|text| storable(text, MAX_RESPONSE_EXCERPT_BYTES));
    attempt.remote_address = attempt.remote_address.filter(|text| text.parse::<IpAddr>().is_ok());
    Ok(attempt)
}

fn check(attempt: &DeliveryAttempt) -> Result<(), String> {
    let mut errors = FieldErrors::default();
    errors.check_event_type("event_type", &attempt.event_type);
    if attempt.attempt < 0 {
        errors.add("attempt", "must not be negative");
    }
    if attempt.latency_ms < 0 {
        errors.add("latency_ms", "must not be negative");
    }
    for (name, micros) in
        [("connect_us", attempt.connect_us), ("send_us", attempt.send_us), ("wait_us", attempt.wait_us)]
    {
        if micros.is_some_and(i64::is_negative) {
            errors.add(name, "must not be negative");
        }
    }
    if attempt.endpoints_matched.is_some_and(i32::is_negative) {
        errors.add("endpoints_matched", "must not be negative");
    }
    if attempt.round < 0 {
        errors.add("round", "must not be negative");
    }
    if !is_time_in_range(attempt.started_at) {
        errors.add("started_at", "must be in the years 1 to 9999");
    }
    if attempt.next_attempt_at.is_some_and(|micros| !is_time_in_range(micros)) {
        errors.add("next_attempt_at", "must be in the years 1 to 9999");
    }
    errors.into_result(()).map_err(|invalid| invalid.to_string())
}

/// Replaces NUL and truncates, so that PostgreSQL can store the text.
fn storable(text: String, max_bytes: usize) -> String {
    let mut text = if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
    text.truncate(text.floor_char_boundary(max_bytes));
    text
}
