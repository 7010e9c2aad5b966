//! A position on the log of events and its byte form. Ingest seals the byte form into position tokens; the materializer
//! opens them.

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

/// Sealing purpose of position tokens. A token that was sealed for another purpose does not open as a position.
pub const TOKEN_PURPOSE: &str = "position";

/// First byte of the byte form. Another form gets another version.
const VERSION: u8 = 1;

impl LogPosition {
    /// Length of the byte form.
    pub const ENCODED_BYTES: usize = 17;

    /// Version byte, then epoch, partition and offset, big-endian.
    pub fn to_bytes(&self) -> [u8; Self::ENCODED_BYTES] {
        let mut bytes = [0; Self::ENCODED_BYTES];
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&self.log_epoch.to_be_bytes());
        bytes[5..9].copy_from_slice(&self.partition.to_be_bytes());
        bytes[9..].copy_from_slice(&self.offset.to_be_bytes());
        bytes
    }

    /// Parses the byte form; `None` for another version, another length or a negative number.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::ENCODED_BYTES] = bytes.try_into().ok()?;
        let (version, rest) = bytes.split_first_chunk::<1>()?;
        let (log_epoch, rest) = rest.split_first_chunk::<4>()?;
        let (partition, offset) = rest.split_first_chunk::<4>()?;
        let position = Self {
            log_epoch: i32::from_be_bytes(*log_epoch),
            partition: i32::from_be_bytes(*partition),
            offset: i64::from_be_bytes(offset.try_into().ok()?),
        };
        let is_valid = position.log_epoch >= 0 && position.partition >= 0 && position.offset >= 0;
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
            log_epoch in 0..=i32::MAX, partition in 0..=i32::MAX, offset in 0..=i64::MAX,
        ) {
            let position = LogPosition { log_epoch, partition, offset };
            prop_assert_eq!(LogPosition::from_bytes(&position.to_bytes()), Some(position));
        }

        #[test]
        fn bytes_that_decode_encode_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some(position) = LogPosition::from_bytes(&bytes) {
                let form = position.to_bytes();
                prop_assert_eq!(form.as_slice(), bytes.as_slice());
            }
        }
    }

    #[test]
    fn the_byte_form_is_fixed_and_other_bytes_are_refused() {
        let position = LogPosition { log_epoch: 1, partition: 2, offset: 3 };
        let bytes = position.to_bytes();
        assert_eq!(bytes, [1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(LogPosition::from_bytes(&other), None);
        assert_eq!(LogPosition::from_bytes(&bytes[..16]), None);
        let mut negative = bytes;
        negative[9] = 0x80;
        assert_eq!(LogPosition::from_bytes(&negative), None);
    }
}
