//! The `position` token: an event's log position, sealed for its organization. Ingest makes the same one when it
//! accepts an event.

use runtime::seal::SealingKey;
use schemas::ids::OrgId;
use schemas::position::{LogPosition, TOKEN_PURPOSE};

/// The token of `log_position`.
pub(crate) fn seal(key: &SealingKey, organization: OrgId, log_position: LogPosition) -> String {
    key.seal_stable_token(TOKEN_PURPOSE, organization.as_uuid().as_bytes(), &log_position.to_bytes())
}

/// The token of a record that is not on the topic of events: it does not open as a position to read from.
pub(crate) fn seal_elsewhere(key: &SealingKey, org: OrgId, topic: &str, position: LogPosition) -> String {
    let plain = [topic.as_bytes(), &position.to_bytes()].concat();
    key.seal_stable_token("position elsewhere", org.as_uuid().as_bytes(), &plain)
}

/// Reads a client's token; `None` if it is no token that this deployment made for this organization.
pub(crate) fn open(key: &SealingKey, organization: OrgId, token: &str) -> Option<LogPosition> {
    LogPosition::from_bytes(&key.open_token(TOKEN_PURPOSE, organization.as_uuid().as_bytes(), token)?)
}
