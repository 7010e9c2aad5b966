//! The `position` token: an event's place on the log, sealed for its organization. Ingest makes the same one when it
//! accepts an event.

use platform::seal::SealingKey;
use schemas::ids::OrgId;
use schemas::position::{Place, TOKEN_PURPOSE};

/// The token of `place`.
pub(crate) fn seal(key: &SealingKey, organization: OrgId, place: Place) -> String {
    key.seal_token(TOKEN_PURPOSE, organization.as_uuid().as_bytes(), &place.to_bytes())
}

/// Reads a client's token; `None` when it is none of this organization.
pub(crate) fn open(key: &SealingKey, organization: OrgId, token: &str) -> Option<Place> {
    Place::from_bytes(&key.open_token(TOKEN_PURPOSE, organization.as_uuid().as_bytes(), token)?)
}
