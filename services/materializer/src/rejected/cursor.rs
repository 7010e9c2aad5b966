//! The cursor of `GET /rejected`: the last row that was shown. Sealed per organization, like the inbox cursor.

use runtime::seal::SealingKey;
use schemas::ids::OrgId;
use time::OffsetDateTime;

/// Purpose of the cursor's seal.
const PURPOSE: &str = "rejected";
/// First byte of the cursor; every change of the layout changes it.
const VERSION: u8 = 1;

/// The sort key of the last row that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RejectedCursor {
    /// Append time, in the microseconds that PostgreSQL stores.
    pub(super) appended_at: OffsetDateTime,
    /// Full name of the topic.
    pub(super) topic: String,
    pub(super) partition: i32,
    /// Epoch of the log.
    pub(super) log_epoch: i32,
    pub(super) offset: i64,
}

impl RejectedCursor {
    /// The token that a client carries.
    pub(super) fn seal(&self, key: &SealingKey, organization: OrgId) -> String {
        key.seal_token(PURPOSE, organization.as_uuid().as_bytes(), &self.to_bytes())
    }

    /// Reads a client's token; `None` when it was not made for this organization.
    pub(super) fn open(key: &SealingKey, organization: OrgId, token: &str) -> Option<Self> {
        Self::from_bytes(&key.open_token(PURPOSE, organization.as_uuid().as_bytes(), token)?)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let micros = self.appended_at.unix_timestamp_nanos() / 1000;
        bytes.extend_from_slice(&micros.to_be_bytes());
        bytes.extend_from_slice(&self.partition.to_be_bytes());
        bytes.extend_from_slice(&self.log_epoch.to_be_bytes());
        bytes.extend_from_slice(&self.offset.to_be_bytes());
        bytes.extend_from_slice(self.topic.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<1>()?;
        let (micros, rest) = rest.split_first_chunk::<16>()?;
        let (partition, rest) = rest.split_first_chunk::<4>()?;
        let (log_epoch, rest) = rest.split_first_chunk::<4>()?;
        let (offset, topic) = rest.split_first_chunk::<8>()?;
        let nanos = i128::from_be_bytes(*micros).checked_mul(1000)?;
        let cursor = Self {
            appended_at: OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?,
            topic: std::str::from_utf8(topic).ok()?.to_owned(),
            partition: i32::from_be_bytes(*partition),
            log_epoch: i32::from_be_bytes(*log_epoch),
            offset: i64::from_be_bytes(*offset),
        };
        (*version == [VERSION]).then_some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursor_round_trips(
            micros in 0..253_402_300_799_999_999_i64, topic in "[a-z.]{0,30}",
            partition in 0..=i32::MAX, log_epoch in 0..=i32::MAX,
            offset in 0..=i64::MAX,
        ) {
            let appended_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap();
            let cursor = RejectedCursor { appended_at, topic, partition, log_epoch, offset };
            let (key, org) = (SealingKey::from_bytes([1; 32]), OrgId::generate());
            prop_assert_eq!(RejectedCursor::open(&key, org, &cursor.seal(&key, org)), Some(cursor.clone()));
            prop_assert_eq!(RejectedCursor::open(&key, OrgId::generate(), &cursor.seal(&key, org)), None);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _read = RejectedCursor::from_bytes(&bytes);
            let _framed = RejectedCursor::from_bytes(&[&[VERSION], &bytes[..]].concat());
        }
    }
}
