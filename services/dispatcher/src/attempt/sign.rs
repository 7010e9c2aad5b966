//! Signatures of webhook requests by the Standard Webhooks specification, version `v1`: HMAC-SHA256 over
//! `id.timestamp.body`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Prefix of every secret's text.
pub(crate) const SECRET_PREFIX: &str = "whsec_";
/// Bytes of a generated secret; the specification allows 24 to 64.
const GENERATED_BYTES: usize = 32;

/// A signing secret, ready to sign. `Debug` hides it.
#[derive(Clone)]
pub(crate) struct Secret {
    bytes: Vec<u8>,
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A new random secret.
    pub(crate) fn generate() -> Self {
        let bytes: [u8; GENERATED_BYTES] = rand::random();
        Self { mac: Hmac::new(&padded(&bytes).into()), bytes: bytes.to_vec() }
    }

    /// `None`: there are fewer than 24 bytes or more than 64.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if !(24..=64).contains(&bytes.len()) {
            return None;
        }
        Some(Self { mac: Hmac::new(&padded(bytes).into()), bytes: bytes.to_vec() })
    }

    /// The bytes, for sealing.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The text that the client gets once: `whsec_` and base64.
    pub(crate) fn to_text(&self) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(&self.bytes))
    }
}

/// HMAC's key block: HMAC fills a shorter key with zeros. A secret is never longer than the block.
fn padded(bytes: &[u8]) -> [u8; 64] {
    let mut block = [0; 64];
    for (to, from) in block.iter_mut().zip(bytes) {
        *to = *from;
    }
    block
}

/// The value of `webhook-signature`: one signature per secret, separated by blanks. `timestamp_seconds` is the
/// attempt's time, not the event's; `body` has the exact bytes that are sent.
pub(crate) fn sign(secrets: &[Secret], id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
    let mut value = String::with_capacity(secrets.len() * 48);
    for secret in secrets {
        let mut mac = secret.mac.clone();
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(timestamp_seconds.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        if !value.is_empty() {
            value.push(' ');
        }
        value.push_str("v1,");
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut value);
    }
    value
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;
    use standardwebhooks::Webhook;

    use super::*;

    fn secret_of(text: &str) -> Secret {
        Secret::from_bytes(&STANDARD.decode(text.strip_prefix(SECRET_PREFIX).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn agrees_with_the_published_vectors() {
        let vectors = [
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
        ];
        for (secret, id, timestamp, body, signature) in vectors {
            assert_eq!(sign(&[secret_of(secret)], id, timestamp, body.as_bytes()), signature);
        }
    }

    #[test]
    fn a_secret_has_no_debug_output() {
        let secret = Secret::generate();
        assert!(secret.to_text().starts_with(SECRET_PREFIX));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert!(Secret::from_bytes(&[1; 23]).is_none() && Secret::from_bytes(&[1; 65]).is_none());
        assert_ne!(Secret::generate().to_text(), secret.to_text());
    }

    proptest! {
        #[test]
        fn an_independent_library_verifies_both_signatures(
            old in prop::collection::vec(any::<u8>(), 24..=64),
            new in prop::collection::vec(any::<u8>(), 24..=64),
            body in "\\PC{0,200}",
        ) {
            let secrets = [Secret::from_bytes(&old).unwrap(), Secret::from_bytes(&new).unwrap()];
            let now = time::OffsetDateTime::now_utc().unix_timestamp();
            let signature = sign(&secrets, "id-1", now, body.as_bytes());
            let mut headers = HeaderMap::new();
            headers.insert("webhook-id", HeaderValue::from_static("id-1"));
            headers.insert("webhook-timestamp", HeaderValue::from(now));
            headers.insert("webhook-signature", HeaderValue::from_str(&signature).unwrap());
            for secret in &secrets {
                let verifier = Webhook::new(&secret.to_text()).unwrap();
                prop_assert!(verifier.verify(body.as_bytes(), &headers).is_ok());
                let other = format!("{body} ");
                prop_assert!(verifier.verify(other.as_bytes(), &headers).is_err());
            }
        }
    }
}
