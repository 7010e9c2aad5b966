//! Records that the system itself wrote: only they may have a reserved event type. A header has the HMAC-SHA-256 of the
//! value, by a key that is in PostgreSQL and that no other producer of the topic knows.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::parts::header;
use crate::headers;

/// Separates this use of the key from any other.
const CONTEXT: &[u8] = b"triggers system event\n";

/// Signs the system's own events. Its debug output hides it.
#[derive(Clone)]
pub struct SystemKey([u8; 32]);

impl fmt::Debug for SystemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemKey(..)")
    }
}

impl SystemKey {
    /// The key of these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The value of the header [`headers::SYSTEM_SIGNATURE`] for a record with this value.
    pub fn sign(&self, value: &[u8]) -> String {
        STANDARD.encode(self.mac(value).finalize().into_bytes())
    }

    /// Whether the headers have the signature of the value.
    pub(super) fn has_signed(&self, value: &[u8], all: &[(String, Vec<u8>)]) -> bool {
        let signature = header(all, headers::SYSTEM_SIGNATURE).and_then(|text| STANDARD.decode(text).ok());
        signature.is_some_and(|signature| self.mac(value).verify_slice(&signature).is_ok())
    }

    fn mac(&self, value: &[u8]) -> Hmac<Sha256> {
        // HMAC pads a short key with zeros to the block of its hash.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&self.0);
        Hmac::new(&block.into()).chain_update(CONTEXT).chain_update(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_that_was_signed_is_trusted() {
        let (key, other) = (SystemKey::from_bytes([1; 32]), SystemKey::from_bytes([2; 32]));
        let signed = |text: String| vec![(headers::SYSTEM_SIGNATURE.to_owned(), text.into_bytes())];
        assert!(key.has_signed(b"value", &signed(key.sign(b"value"))));
        for wrong in [other.sign(b"value"), key.sign(b"valuf"), String::new(), "?".to_owned()] {
            assert!(!key.has_signed(b"value", &signed(wrong)));
        }
        assert!(!key.has_signed(b"value", &[]));
        assert_eq!(format!("{key:?}"), "SystemKey(..)");
    }
}
