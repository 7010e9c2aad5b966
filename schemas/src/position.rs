//! Positions on the log of events, and the byte form that position tokens seal. Ingest seals it; the materializer opens
//! it.

/// Log epoch, partition and offset of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Raised when the topic is recreated, so that offsets of different logs are never compared.
    pub log_epoch: i32,
    /// Partition of `triggers.events.v1`.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
}

/// What a position token holds of one record. Ingest and the view know it alike, so both make the same token. It has no
/// log epoch, which ingest does not know: the append time tells records of different logs apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordPosition {
    /// Partition of `triggers.events.v1`.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
    /// Append time, milliseconds since the Unix epoch.
    pub appended_at_ms: i64,
}

/// Sealing purpose of position tokens. A token that was sealed for another purpose does not open as a position.
pub const TOKEN_PURPOSE: &str = "position";

/// First byte of the byte form. Another form gets another version.
const VERSION: u8 = 2;

impl RecordPosition {
    /// Length of the byte form.
    pub const ENCODED_BYTES: usize = 21;

    /// Version byte, then partition, offset and append time, big-endian.
    pub fn to_bytes(&self) -> [u8; Self::ENCODED_BYTES] {
        let mut bytes = [0; Self::ENCODED_BYTES];
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&self.partition.to_be_bytes());
        bytes[5..13].copy_from_slice(&self.offset.to_be_bytes());
        bytes[13..].copy_from_slice(&self.appended_at_ms.to_be_bytes());
        bytes
    }

    /// Parses the byte form; `None` for another version, another length, or a negative partition or offset.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::ENCODED_BYTES] = bytes.try_into().ok()?;
        let (version, rest) = bytes.split_first_chunk::<1>()?;
        let (partition, rest) = rest.split_first_chunk::<4>()?;
        let (offset, appended_at_ms) = rest.split_first_chunk::<8>()?;
        let position = Self {
            partition: i32::from_be_bytes(*partition),
            offset: i64::from_be_bytes(*offset),
            appended_at_ms: i64::from_be_bytes(appended_at_ms.try_into().ok()?),
        };
        let is_valid = position.partition >= 0 && position.offset >= 0;
        (*version == [VERSION] && is_valid).then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_survives_its_byte_form(
            partition in 0..=i32::MAX, offset in 0..=i64::MAX, appended_at_ms in any::<i64>(),
        ) {
            let position = RecordPosition { partition, offset, appended_at_ms };
            prop_assert_eq!(RecordPosition::from_bytes(&position.to_bytes()), Some(position));
        }

        #[test]
        fn bytes_that_decode_encode_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..25)) {
            if let Some(position) = RecordPosition::from_bytes(&bytes) {
                let form = position.to_bytes();
                prop_assert_eq!(form.as_slice(), bytes.as_slice());
            }
        }
    }

    #[test]
    fn the_byte_form_is_fixed_and_other_bytes_are_refused() {
        let position = RecordPosition { partition: 2, offset: 3, appended_at_ms: 260 };
        let bytes = position.to_bytes();
        assert_eq!(bytes, [2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 4]);
        let mut other = bytes;
        other[0] = 1;
        assert_eq!(RecordPosition::from_bytes(&other), None);
        assert_eq!(RecordPosition::from_bytes(&bytes[..20]), None);
        for negative in [1, 5] {
            let mut other = bytes;
            other[negative] = 0x80;
            assert_eq!(RecordPosition::from_bytes(&other), None);
        }
    }
}
