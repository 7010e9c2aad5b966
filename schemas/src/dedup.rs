//! Dedup keys: the constructors of [`Dedup`] for its three namespaces, and their windows.
//!
//! The code that reads an event chooses the namespace. The materializer takes the duplicate decision.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::records::{Dedup, DedupKind, PayloadEncoding};

/// Window of a key that the producer chose (`Idempotency-Key`, `dedup_id`), seconds.
pub const DEDUP_WINDOW_SECONDS: i64 = 86_400;
/// Window of a content fingerprint, seconds.
pub const CONTENT_WINDOW_SECONDS: i64 = 300;

impl Dedup {
    /// The key from the header `Idempotency-Key`. A duplicate must have the same `body`: the request's body after
    /// decompression, and the parts of the event that are in headers.
    pub fn idempotency_key(key: impl Into<String>, body: &[u8]) -> Self {
        Self {
            kind: DedupKind::IdempotencyKey,
            key: key.into(),
            window_seconds: DEDUP_WINDOW_SECONDS,
            body_hash: sha256_hex(&[body]),
            dedup_id: None,
        }
    }

    /// The key from the body's `dedup_id`, or from a CloudEvent's source and id. `body` as above.
    pub fn dedup_id(id: impl Into<String>, body: &[u8]) -> Self {
        Self {
            kind: DedupKind::DedupId,
            key: id.into(),
            window_seconds: DEDUP_WINDOW_SECONDS,
            body_hash: sha256_hex(&[body]),
            dedup_id: None,
        }
    }

    /// The key from the content: the fingerprint of type, payload text and its encoding is both the key and the body
    /// hash.
    pub fn content(event_type: &str, payload: &str, encoding: Option<PayloadEncoding>) -> Self {
        // Neither an event type nor JSON text contains NUL, so different events never give the same bytes.
        let (separator, encoding) = encoding.map_or(("", ""), |encoding| ("\0", encoding.as_str()));
        let parts = [event_type, "\0", payload, separator, encoding];
        let fingerprint = sha256_hex(&parts.map(str::as_bytes));
        Self {
            kind: DedupKind::Content,
            key: fingerprint.clone(),
            window_seconds: CONTENT_WINDOW_SECONDS,
            body_hash: fingerprint,
            dedup_id: None,
        }
    }

    /// The producer's `dedup_id`, also when the key is an idempotency key. For display.
    pub fn shown_id(&self) -> Option<&str> {
        if self.kind == DedupKind::DedupId { Some(&self.key) } else { self.dedup_id.as_deref() }
    }
}

/// SHA-256 over the concatenated parts, as 64 lower-case hex digits.
pub fn sha256_hex(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_sha_256_in_hex() {
        assert_eq!(sha256_hex(&[b"a", b"bc"]), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn type_payload_and_encoding_decide_the_content_key() {
        let one = Dedup::content("a", "\"bc\"", None);
        assert_eq!(one, Dedup::content("a", "\"bc\"", None));
        assert_eq!(one.key, sha256_hex(&[b"a\0\"bc\""]), "fingerprints of JSON payloads stay as they were");
        assert_ne!(one.key, Dedup::content("a\"", "bc\"", None).key);
        assert_ne!(one.key, Dedup::content("a", "\"bd\"", None).key);
        assert_ne!(one.key, Dedup::content("a", "\"bc\"", Some(PayloadEncoding::Base64)).key);
        assert_eq!((one.kind, one.window_seconds), (DedupKind::Content, 300));
    }

    #[test]
    fn keys_of_the_producer_have_a_window_of_one_day() {
        let header = Dedup::idempotency_key("k", b"abc");
        let field = Dedup::dedup_id("k", b"abc");
        assert_eq!((header.kind, field.kind), (DedupKind::IdempotencyKey, DedupKind::DedupId));
        assert_eq!((header.window_seconds, field.window_seconds), (86_400, 86_400));
        assert_eq!(header.body_hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
