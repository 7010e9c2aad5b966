//! Verifies Standard Webhooks signatures as a receiver does, except for their age: some faults step the sender's clock
//! by an hour.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Whether one of the signatures in the header signs `id.timestamp.body` with the secret.
pub(super) fn verifies(secret: &str, id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
    let Ok(key) = STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret)) else { return false };
    signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,")).any(|signature| {
        let (Ok(given), Ok(mut mac)) = (STANDARD.decode(signature), Hmac::<Sha256>::new_from_slice(&key)) else {
            return false;
        };
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        mac.verify_slice(&given).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_covers_id_timestamp_and_body() {
        let (secret, id, timestamp, body) = (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            b"{\"test\": 2432232314}",
        );
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert!(verifies(secret, id, timestamp, body, &format!("v1,AAAA {signature}")));
        assert!(!verifies(secret, id, "1614265331", body, signature));
        assert!(!verifies(secret, id, timestamp, b"{}", signature));
        assert!(!verifies("whsec_AAAA", id, timestamp, body, signature));
        assert!(!verifies(secret, id, timestamp, body, ""));
    }
}
