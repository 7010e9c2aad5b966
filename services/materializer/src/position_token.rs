//! The `position` token: an event's position, sealed for its organization. Ingest makes the same one when it accepts an
//! event.

use runtime::seal::{SealingKey, StableTokens};
use schemas::ids::OrgId;
use schemas::position::{RecordPosition, TOKEN_PURPOSE};

/// Makes the tokens of records of the events topic.
pub(crate) fn tokens(key: &SealingKey, organization: OrgId) -> StableTokens {
    key.stable_tokens(TOKEN_PURPOSE, organization.as_uuid().as_bytes())
}

/// The token of a record that is not on the topic of events: it does not open as a position to read from.
pub(crate) fn seal_elsewhere(key: &SealingKey, org: OrgId, topic: &str, record: RecordPosition) -> String {
    let plain = [topic.as_bytes(), &record.to_bytes()].concat();
    key.seal_stable_token("position elsewhere", org.as_uuid().as_bytes(), &plain)
}

/// Reads a client's token; `None` if it is no token that this deployment made for this organization.
pub(crate) fn open(key: &SealingKey, organization: OrgId, token: &str) -> Option<RecordPosition> {
    RecordPosition::from_bytes(&key.open_stable_token(TOKEN_PURPOSE, organization.as_uuid().as_bytes(), token)?)
}
