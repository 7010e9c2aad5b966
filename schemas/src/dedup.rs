//! How a repeat of an event is named: the constructors of [`Dedup`] for its three namespaces, and their windows.
//!
//! Which of them an event gets is its reader's decision; what a repeat then leads to is the materializer's.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::records::{Dedup, DedupKind};

/// How long a named key (`Idempotency-Key`, `dedup_id`) is remembered, seconds.
pub const DEDUP_WINDOW_SECONDS: i64 = 86_400;
/// How long a content fingerprint is remembered, seconds.
pub const CONTENT_WINDOW_SECONDS: i64 = 300;

impl Dedup {
    /// Named by the header `Idempotency-Key`; `body` is what a repeat must say again: the request's body as it was
    /// sent, after decompression, and what of the event stands in headers.
    pub fn idempotency_key(key: impl Into<String>, body: &[u8]) -> Self {
        Self {
            kind: DedupKind::IdempotencyKey,
            key: key.into(),
            window_seconds: DEDUP_WINDOW_SECONDS,
            body_hash: sha256_hex(&[body]),
            dedup_id: None,
        }
    }

    /// Named by the body's `dedup_id` or by a CloudEvent's source and id; `body` as above.
    pub fn dedup_id(id: impl Into<String>, body: &[u8]) -> Self {
        Self {
            kind: DedupKind::DedupId,
            key: id.into(),
            window_seconds: DEDUP_WINDOW_SECONDS,
            body_hash: sha256_hex(&[body]),
            dedup_id: None,
        }
    }

    /// Named by what it says: the fingerprint of type and payload text is both the key and the body hash.
    pub fn content(event_type: &str, payload: &str) -> Self {
        // No event type holds a NUL, so no type and payload can be cut differently and give the same bytes.
        let fingerprint = sha256_hex(&[event_type.as_bytes(), b"\0", payload.as_bytes()]);
        Self {
            kind: DedupKind::Content,
            key: fingerprint.clone(),
            window_seconds: CONTENT_WINDOW_SECONDS,
            body_hash: fingerprint,
            dedup_id: None,
        }
    }

    /// What the producer calls the event, whatever names its repeats.
    pub fn shown_id(&self) -> Option<&str> {
        if self.kind == DedupKind::DedupId { Some(&self.key) } else { self.dedup_id.as_deref() }
    }
}

/// SHA-256 over the parts one after the other, as 64 lower-case hex digits.
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
    fn content_is_told_apart_by_type_and_by_payload() {
        let one = Dedup::content("a", "\"bc\"");
        assert_eq!(one, Dedup::content("a", "\"bc\""));
        assert_ne!(one.key, Dedup::content("a\"", "bc\"").key);
        assert_ne!(one.key, Dedup::content("a", "\"bd\"").key);
        assert_eq!((one.kind, one.window_seconds), (DedupKind::Content, 300));
    }

    #[test]
    fn named_keys_are_remembered_for_a_day_with_the_hash_of_the_body() {
        let header = Dedup::idempotency_key("k", b"abc");
        let field = Dedup::dedup_id("k", b"abc");
        assert_eq!((header.kind, field.kind), (DedupKind::IdempotencyKey, DedupKind::DedupId));
        assert_eq!((header.window_seconds, field.window_seconds), (86_400, 86_400));
        assert_eq!(header.body_hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
