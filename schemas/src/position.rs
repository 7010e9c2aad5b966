//! A place on the log of events, and its compact byte form: what ingest seals into position tokens and the materializer
//! opens.
//!
//! Sealing and cursors live elsewhere.

/// Where one event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which log: raised when the topic had to be made anew, so that offsets of two logs are never compared.
    pub log_epoch: i32,
    /// Partition of `triggers.events.v1`.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
}

/// Purpose of the tokens that hold the byte form: a token sealed for another purpose does not open as a position.
pub const TOKEN_PURPOSE: &str = "position";

/// First byte of the form below. Another form gets another number.
const VERSION: u8 = 1;

impl Place {
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

    /// Reads the byte form back; `None` for another version, another length or a negative number.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::ENCODED_BYTES] = bytes.try_into().ok()?;
        let (version, rest) = bytes.split_first_chunk::<1>()?;
        let (log_epoch, rest) = rest.split_first_chunk::<4>()?;
        let (partition, offset) = rest.split_first_chunk::<4>()?;
        let place = Self {
            log_epoch: i32::from_be_bytes(*log_epoch),
            partition: i32::from_be_bytes(*partition),
            offset: i64::from_be_bytes(offset.try_into().ok()?),
        };
        let sane = place.log_epoch >= 0 && place.partition >= 0 && place.offset >= 0;
        (*version == [VERSION] && sane).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_survives_its_byte_form(log_epoch in 0..=i32::MAX, partition in 0..=i32::MAX, offset in 0..=i64::MAX) {
            let place = Place { log_epoch, partition, offset };
            prop_assert_eq!(Place::from_bytes(&place.to_bytes()), Some(place));
        }

        #[test]
        fn whatever_reads_as_a_place_is_its_byte_form(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some(place) = Place::from_bytes(&bytes) {
                let form = place.to_bytes();
                prop_assert_eq!(form.as_slice(), bytes.as_slice());
            }
        }
    }

    #[test]
    fn the_form_is_fixed_and_another_version_or_length_is_refused() {
        let place = Place { log_epoch: 1, partition: 2, offset: 3 };
        let bytes = place.to_bytes();
        assert_eq!(bytes, [1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(Place::from_bytes(&other), None);
        assert_eq!(Place::from_bytes(&bytes[..16]), None);
        let mut negative = bytes;
        negative[9] = 0x80;
        assert_eq!(Place::from_bytes(&negative), None);
    }
}
