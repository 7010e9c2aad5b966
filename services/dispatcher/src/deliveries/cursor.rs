//! The cursor of a list of deliveries: the last one that was shown. Sealed per organization, like the inbox cursor.

use runtime::seal::SealingKey;
use schemas::ids::{DeliveryId, OrgId};
use time::OffsetDateTime;
use uuid::Uuid;

/// Purpose of the cursor's seal.
const PURPOSE: &str = "deliveries";
/// First byte of the cursor; every change of the layout changes it.
const VERSION: u8 = 1;

/// The sort key of a delivery: lists are in descending order of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeliveryCursor {
    /// In the microseconds that PostgreSQL stores.
    pub created_at: OffsetDateTime,
    pub delivery_id: DeliveryId,
}

impl DeliveryCursor {
    /// The token that a client carries.
    pub(super) fn seal(&self, key: &SealingKey, organization: OrgId) -> String {
        key.seal_token(PURPOSE, organization.as_uuid().as_bytes(), &self.to_bytes())
    }

    /// Reads a client's token; `None` when it was not made for this organization.
    pub(super) fn open(key: &SealingKey, organization: OrgId, token: &str) -> Option<Self> {
        Self::from_bytes(&key.open_token(PURPOSE, organization.as_uuid().as_bytes(), token)?)
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&(self.created_at.unix_timestamp_nanos() / 1000).to_be_bytes());
        bytes.extend_from_slice(self.delivery_id.as_uuid().as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<1>()?;
        let (micros, id) = rest.split_first_chunk::<16>()?;
        let nanos = i128::from_be_bytes(*micros).checked_mul(1000)?;
        let cursor = Self {
            created_at: OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?,
            delivery_id: DeliveryId::from_uuid(Uuid::from_slice(id).ok()?),
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
        fn cursor_round_trips_for_its_organization_only(micros in 0..253_402_300_799_999_999_i64) {
            let created_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap();
            let cursor = DeliveryCursor { created_at, delivery_id: DeliveryId::generate() };
            let (key, org) = (SealingKey::from_bytes([1; 32]), OrgId::generate());
            prop_assert_eq!(DeliveryCursor::open(&key, org, &cursor.seal(&key, org)), Some(cursor));
            prop_assert_eq!(DeliveryCursor::open(&key, OrgId::generate(), &cursor.seal(&key, org)), None);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _read = DeliveryCursor::from_bytes(&bytes);
            let _framed = DeliveryCursor::from_bytes(&[&[VERSION], &bytes[..]].concat());
        }
    }
}
