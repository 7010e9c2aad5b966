//! Members of a patch: absent ones differ from `null`.

use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;

/// A member that is given. With an `Option` inside it may be `null`.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A time that is given, or `null`.
#[allow(clippy::option_option, reason = "absent, null and a time are three cases")]
pub(super) fn given_time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<OffsetDateTime>>, D::Error> {
    time::serde::rfc3339::option::deserialize(deserializer).map(Some)
}
