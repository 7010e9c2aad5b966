//! Second signatures of webhook requests, in formats that receivers know from elsewhere. Pure.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue};
use sha2::Sha256;

use crate::attempt::sign::Secret;
use crate::endpoints::compat_signature::{CompatFormat, CompatSignature};

/// The second signature of an endpoint. `Debug` hides its secret.
#[derive(Clone)]
pub(crate) struct CompatSigner {
    pub header: HeaderName,
    format: CompatFormat,
    /// `None`: the keys are the endpoint's secrets.
    own: Option<Hmac<Sha256>>,
}

impl fmt::Debug for CompatSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompatSigner").field("header", &self.header).finish_non_exhaustive()
    }
}

impl CompatSigner {
    /// `None`: it cannot be used. What was stored was checked, so only a change of the program leads there.
    pub(crate) fn of(signature: &CompatSignature) -> Option<Self> {
        let own = match &signature.secret {
            Some(secret) => Some(keyed(secret)?),
            None => None,
        };
        let header = HeaderName::from_bytes(signature.header.as_bytes()).ok()?;
        Some(Self { header, format: signature.format, own })
    }

    /// The value of the header. `secrets`: those of the endpoint that sign now, the current one first.
    /// `timestamp_seconds` and `body` as for our signature. `None`: there is no key.
    pub(crate) fn value(&self, secrets: &[Secret], timestamp_seconds: i64, body: &[u8]) -> Option<HeaderValue> {
        let keys: Vec<Hmac<Sha256>> = match &self.own {
            Some(own) => vec![own.clone()],
            None => secrets.iter().filter_map(|secret| keyed(&secret.to_text())).collect(),
        };
        let value = match self.format {
            CompatFormat::TimestampV1 => timestamp_v1(keys, timestamp_seconds, body),
            // The format has one signature: that of the current secret.
            CompatFormat::Sha256Hex => format!("sha256={}", hex(keys.into_iter().next()?, &[body])),
        };
        HeaderValue::from_str(&value).ok()
    }
}

fn timestamp_v1(keys: Vec<Hmac<Sha256>>, timestamp_seconds: i64, body: &[u8]) -> String {
    let timestamp = timestamp_seconds.to_string();
    let signatures = keys.into_iter().map(|key| format!(",v1={}", hex(key, &[timestamp.as_bytes(), b".", body])));
    signatures.fold(format!("t={timestamp}"), |value, signature| value + &signature)
}

/// A key of any length.
fn keyed(secret: &str) -> Option<Hmac<Sha256>> {
    Hmac::new_from_slice(secret.as_bytes()).ok()
}

fn hex(mut mac: Hmac<Sha256>, parts: &[&[u8]]) -> String {
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer(format: CompatFormat, secret: Option<&str>) -> CompatSigner {
        let secret = secret.map(str::to_owned);
        CompatSigner::of(&CompatSignature { format, header: "x-sig".to_owned(), secret }).unwrap()
    }

    #[test]
    fn agrees_with_published_vectors() {
        // The example of the documentation of webhooks that are signed with `sha256=`.
        let sha256 = signer(CompatFormat::Sha256Hex, Some("It's a Secret to Everybody"));
        assert_eq!(
            sha256.value(&[], 0, b"Hello, World!").unwrap(),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
        // RFC 4231, test case 6: a key that is longer than a block. What is signed is "t.body".
        let long = "k".repeat(131);
        let timestamp = signer(CompatFormat::TimestampV1, Some(&long)).value(&[], 7, b"body").unwrap();
        let wanted = hex(keyed(&long).unwrap(), &[b"7.body"]);
        assert_eq!(timestamp, format!("t=7,v1={wanted}"));
    }

    #[test]
    fn without_a_secret_the_text_of_the_endpoint_s_signs() {
        let secrets = [Secret::generate(), Secret::generate()];
        let [new, old] = secrets.each_ref().map(|secret| {
            let own = signer(CompatFormat::TimestampV1, Some(&secret.to_text()));
            own.value(&[], 7, b"x").unwrap().to_str().unwrap().to_owned()
        });
        let both = signer(CompatFormat::TimestampV1, None).value(&secrets, 7, b"x").unwrap();
        assert_eq!(both, format!("{new},{}", old.strip_prefix("t=7,").unwrap()), "both sign during a rotation");
        let current = signer(CompatFormat::Sha256Hex, None).value(&secrets, 7, b"x");
        assert_eq!(current, signer(CompatFormat::Sha256Hex, Some(&secrets[0].to_text())).value(&[], 7, b"x"));
        assert_eq!(signer(CompatFormat::Sha256Hex, None).value(&[], 7, b"x"), None);
    }

    proptest! {
        #[test]
        fn every_byte_and_the_time_are_signed(body in "\\PC{1,50}", at in 0_i64..4_000_000_000) {
            let signer = signer(CompatFormat::TimestampV1, Some("0123456789abcdef"));
            let value = |at, body: &str| signer.value(&[], at, body.as_bytes()).unwrap();
            prop_assert_ne!(value(at, &body), value(at, &format!("{body} ")));
            let signature = |at| value(at, &body).to_str().unwrap().rsplit_once('=').unwrap().1.to_owned();
            prop_assert_ne!(signature(at), signature(at + 1));
            prop_assert_eq!(signature(at).len(), 64);
        }
    }
}
