//! Signatures of webhook requests, by the [Standard Webhooks](https://www.standardwebhooks.com) specification, version
//! `v1`: HMAC-SHA256 over `id.timestamp.body`.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use triggers_client::webhook;
//!
//! # fn example(headers: http::HeaderMap, body: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let secret = std::env::var("WEBHOOK_SECRET")?;
//! webhook::verify(&secret, &headers, body, SystemTime::now(), webhook::TOLERANCE)?;
//! let event: webhook::WebhookEvent = serde_json::from_slice(body)?;
//! println!("{} {}", event.event_id, event.data);
//! # Ok(())
//! # }
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

mod batch;

pub use batch::verify_batch;

/// How far the clocks of sender and receiver may be apart: 5 minutes.
pub const TOLERANCE: Duration = Duration::from_secs(300);

const SECRET_PREFIX: &str = "whsec_";
const SIGNATURE_PREFIX: &str = "v1,";

/// The body of a webhook request. Decode it after [`verify`]. [`verify_batch`] reads those of an endpoint with `batch`.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct WebhookEvent {
    /// The event's id. A receiver that stores it recognizes an event that it got before.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
    /// When the event was accepted, in RFC 3339.
    pub timestamp: String,
    /// The payload as the producer wrote it, byte for byte.
    pub data: Box<RawValue>,
    /// `base64`: `data` is the base64 text of binary data.
    pub payload_encoding: Option<String>,
}

/// Why a request is not accepted, or why it cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The secret is not `whsec_` and the base64 text of 24 to 64 bytes. That is a mistake of the receiver.
    #[error("the signing secret is not whsec_ and the base64 text of 24 to 64 bytes")]
    Secret,
    /// This header is absent, there more than once, or not readable.
    #[error("the header {0} is absent, there more than once, or not readable")]
    Header(&'static str),
    /// The timestamp is further from `now` than the tolerance. The request may be an old one that somebody repeats.
    #[error("the timestamp is too far from the time of the receiver")]
    Timestamp,
    /// No signature is that of the secret.
    #[error("no signature matches")]
    Signature,
    /// The signature is good, and the body is no list of events. The endpoint may have no `batch`.
    #[error("the body is signed, but it is no list of events")]
    Body,
}

/// Verifies that the holder of `secret` signed this request, at most `tolerance` from `now`. `body` has the exact bytes
/// that were received. While a secret is rotated a request has several signatures; one of them must match.
///
/// The signatures are compared in constant time.
///
/// # Errors
/// Answer 400 or 401 then, and do nothing else. The sender tries again.
pub fn verify(
    secret: &str,
    headers: &HeaderMap,
    body: &[u8],
    now: SystemTime,
    tolerance: Duration,
) -> Result<(), VerifyError> {
    let id = header(headers, "webhook-id")?;
    let timestamp = header(headers, "webhook-timestamp")?;
    let signatures = header(headers, "webhook-signature")?;
    let expected = mac(secret, id, timestamp, body)?;
    let matches = |signature: &str| {
        let given = signature.strip_prefix(SIGNATURE_PREFIX).and_then(|text| STANDARD.decode(text).ok());
        given.map_or(Choice::from(0), |given| given.as_slice().ct_eq(&expected))
    };
    let found = signatures.split(' ').map(matches).fold(Choice::from(0), |found, matches| found | matches);
    if !bool::from(found) {
        return Err(VerifyError::Signature);
    }
    // After the signature: only its sender can learn what the clock of the receiver says.
    let signed_at = seconds(timestamp).ok_or(VerifyError::Header("webhook-timestamp"))?;
    let apart = now.duration_since(signed_at).unwrap_or_else(|later| later.duration());
    if apart > tolerance { Err(VerifyError::Timestamp) } else { Ok(()) }
}

/// The value of `webhook-signature` for a request, for tests of a receiver. `timestamp_seconds` is the value of
/// `webhook-timestamp`: seconds since the Unix epoch.
///
/// ```
/// use triggers_client::webhook;
///
/// let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// let signature = webhook::sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
/// assert_eq!(signature.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
/// ```
///
/// # Errors
/// [`VerifyError::Secret`].
pub fn sign(secret: &str, id: &str, timestamp_seconds: u64, body: &[u8]) -> Result<String, VerifyError> {
    let mac = mac(secret, id, &timestamp_seconds.to_string(), body)?;
    Ok(format!("{SIGNATURE_PREFIX}{}", STANDARD.encode(mac)))
}

fn mac(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> Result<[u8; 32], VerifyError> {
    // A short secret, and an empty one above all, would let anybody sign.
    let encoded = secret.strip_prefix(SECRET_PREFIX).ok_or(VerifyError::Secret)?;
    let bytes = STANDARD.decode(encoded).ok().filter(|bytes| (24..=64).contains(&bytes.len()));
    let bytes = bytes.ok_or(VerifyError::Secret)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&bytes).map_err(|_| VerifyError::Secret)?;
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    Ok(mac.finalize().into_bytes().into())
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, VerifyError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none());
    value.and_then(|value| value.to_str().ok()).ok_or(VerifyError::Header(name))
}

/// Only digits: other readers of the header must not see another time.
fn seconds(text: &str) -> Option<SystemTime> {
    let seconds = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use standardwebhooks::Webhook;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn headers(id: &str, timestamp: &str, signature: &str) -> HeaderMap {
        let pairs = [("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", signature)];
        let pair = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        pairs.into_iter().map(pair).collect()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn verify_at(seconds: u64, headers: &HeaderMap) -> Result<(), VerifyError> {
        verify(SECRET, headers, BODY, at(seconds), TOLERANCE)
    }

    fn verify_signature(signature: &str) -> Result<(), VerifyError> {
        verify_at(AT, &headers(ID, &AT.to_string(), signature))
    }

    #[test]
    fn accepts_the_published_vectors() {
        assert_eq!(verify_signature(SIGNATURE), Ok(()));
        let (secret, id, timestamp) =
            ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553);
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let signature = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
        let headers = headers(id, &timestamp.to_string(), signature);
        assert_eq!(verify(secret, &headers, body, at(timestamp), TOLERANCE), Ok(()));
        assert_eq!(verify(SECRET, &headers, body, at(timestamp), TOLERANCE), Err(VerifyError::Signature));
    }

    #[test]
    fn one_of_several_signatures_is_enough() {
        let other = sign("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", ID, AT, BODY).unwrap();
        for good in
            [format!("{other} {SIGNATURE}"), format!("{SIGNATURE} v1a,AAAA {other}"), format!("v2,x {SIGNATURE}")]
        {
            assert_eq!(verify_signature(&good), Ok(()), "{good}");
        }
        let as_v2 = SIGNATURE.replace("v1,", "v2,");
        for bad in [&other, "", "v1,", &SIGNATURE[3..], &as_v2, "v1,AAAA", "v1,!", &SIGNATURE[..SIGNATURE.len() - 1]] {
            assert_eq!(verify_signature(bad), Err(VerifyError::Signature), "{bad}");
        }
    }

    #[test]
    fn a_changed_request_is_refused() {
        let timestamp = AT.to_string();
        let good = headers(ID, &timestamp, SIGNATURE);
        let changed = |headers: &HeaderMap, body: &[u8]| verify(SECRET, headers, body, at(AT), TOLERANCE);
        assert_eq!(changed(&good, b"{}"), Err(VerifyError::Signature));
        assert_eq!(changed(&headers("other", &timestamp, SIGNATURE), BODY), Err(VerifyError::Signature));
        assert_eq!(changed(&headers(ID, "1614265331", SIGNATURE), BODY), Err(VerifyError::Signature));
        assert_eq!(changed(&headers(ID, " 1614265330", SIGNATURE), BODY), Err(VerifyError::Signature));
    }

    #[test]
    fn an_old_or_early_timestamp_is_refused() {
        let headers = headers(ID, &AT.to_string(), SIGNATURE);
        for in_time in [AT - 300, AT, AT + 300] {
            assert_eq!(verify_at(in_time, &headers), Ok(()), "{in_time}");
        }
        for stale in [AT - 301, AT + 301, 0] {
            assert_eq!(verify_at(stale, &headers), Err(VerifyError::Timestamp), "{stale}");
        }
    }

    #[test]
    fn a_timestamp_that_is_no_number_is_refused() {
        for text in ["+1614265330", "", "1e9", "99999999999999999999", "-1"] {
            let signature = STANDARD.encode(mac(SECRET, ID, text, BODY).unwrap());
            let headers = headers(ID, text, &format!("v1,{signature}"));
            assert_eq!(verify_at(AT, &headers), Err(VerifyError::Header("webhook-timestamp")), "{text}");
        }
    }

    #[test]
    fn an_absent_or_repeated_header_is_named() {
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            let mut changed = headers(ID, &AT.to_string(), SIGNATURE);
            let value = changed.remove(name).unwrap();
            assert_eq!(verify_at(AT, &changed), Err(VerifyError::Header(name)));
            changed.append(name, value.clone());
            changed.append(name, value);
            assert_eq!(verify_at(AT, &changed), Err(VerifyError::Header(name)), "two readers could see two values");
        }
    }

    #[test]
    fn a_secret_that_anybody_could_guess_is_refused() {
        let short = format!("whsec_{}", STANDARD.encode([1; 23]));
        let long = format!("whsec_{}", STANDARD.encode([1; 65]));
        for bad in ["", "whsec_", "whsec_!", &SECRET[6..], &short, &long] {
            assert_eq!(sign(bad, ID, AT, BODY), Err(VerifyError::Secret), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_an_independent_library(
            bytes in prop::collection::vec(any::<u8>(), 24..=64),
            id in "[a-zA-Z0-9_-]{1,40}",
            body in "\\PC{0,200}",
        ) {
            let secret = format!("whsec_{}", STANDARD.encode(bytes));
            let now = SystemTime::now();
            let seconds = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
            let signature = sign(&secret, &id, seconds, body.as_bytes()).unwrap();
            let headers = headers(&id, &seconds.to_string(), &signature);
            prop_assert!(Webhook::new(&secret).unwrap().verify(body.as_bytes(), &headers).is_ok());
            prop_assert_eq!(verify(&secret, &headers, body.as_bytes(), now, TOLERANCE), Ok(()));
        }
    }
}
