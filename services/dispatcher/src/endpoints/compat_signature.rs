//! A second signature beside ours, in a format that receivers know from elsewhere: for those that move to us and keep
//! their verification. Pure.

use std::fmt;

use http_server::FieldError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::headers;
use super::nested::{Nested, visible};

const PLACE: &str = "compat_signature";
/// A shorter secret can be guessed by those who see signatures.
const MIN_SECRET_BYTES: usize = 16;
const MAX_SECRET_BYTES: usize = 256;
const MAX_HEADER_BYTES: usize = 128;
/// Headers that mean something else to a receiver, beside those that no endpoint may set.
const REFUSED_HEADERS: &[&str] = &["accept", "authorization", "cookie"];

/// What is signed, and how the signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = CompatSignatureFormat)]
pub(crate) enum CompatFormat {
    /// `t=SECONDS,v1=HEX`: HMAC-SHA256 of the time, a dot, and the body.
    #[serde(rename = "timestamp-v1")]
    TimestampV1,
    /// `sha256=HEX`: HMAC-SHA256 of the body.
    #[serde(rename = "sha256-hex")]
    Sha256Hex,
}

/// What is sealed. `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CompatSignature {
    pub format: CompatFormat,
    /// In lower case.
    pub header: String,
    /// The bytes of this text are the key. `None`: those of the endpoint's own secret, as it was shown.
    pub secret: Option<String>,
}

impl fmt::Debug for CompatSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompatSignature").field("format", &self.format).finish_non_exhaustive()
    }
}

/// The second signature of an endpoint, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(
    as = CompatSignature,
    example = json!({"format": "sha256-hex", "header": "x-hub-signature-256", "has_secret": true})
)]
pub(crate) struct ShownCompatSignature {
    pub format: CompatFormat,
    /// In lower case.
    pub header: String,
    /// Whether it has a secret of its own. False: the key is the endpoint's secret.
    pub has_secret: bool,
}

impl CompatSignature {
    pub(super) fn shown(&self) -> ShownCompatSignature {
        ShownCompatSignature { format: self.format, header: self.header.clone(), has_secret: self.secret.is_some() }
    }
}

/// Reads the member `compat_signature` of an endpoint.
///
/// # Errors
/// Every invalid member, with its place. No error repeats the secret.
pub(super) fn read(value: &Value) -> Result<CompatSignature, Vec<FieldError>> {
    let mut members = Nested::open(PLACE, value)?;
    members.refuse_unknown(&["format", "header", "secret"]);
    let format = members.required("format", |value| {
        CompatFormat::deserialize(value).map_err(|_| "must be timestamp-v1 or sha256-hex".to_owned())
    });
    let header = members.required("header", header);
    let secret = members.optional("secret", |value| visible(value, MIN_SECRET_BYTES..=MAX_SECRET_BYTES));
    let read = format.zip(header).map(|(format, header)| CompatSignature { format, header, secret });
    members.finish(read)
}

fn header(value: &Value) -> Result<String, String> {
    let name = visible(value, 1..=MAX_HEADER_BYTES)?;
    let (name, _) = headers::header(&name, "")?;
    if REFUSED_HEADERS.contains(&name.as_str()) {
        return Err(format!("must not be {name}"));
    }
    Ok(name.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_second_signature_is_read() {
        let read_back = read(&json!({"format": "sha256-hex", "header": "X-Hub-Signature-256"})).unwrap();
        assert_eq!((read_back.header.as_str(), read_back.secret.as_deref()), ("x-hub-signature-256", None));
        let secret = "a secret".replace(' ', "-").repeat(2);
        let own = read(&json!({"format": "timestamp-v1", "header": "x-sig", "secret": secret})).unwrap();
        assert!(own.shown().has_secret && !format!("{own:?}{:?}", own.shown()).contains(&secret));
    }

    #[test]
    fn invalid_second_signatures_are_refused_by_place() {
        for (value, fields) in [
            (json!("x"), vec!["compat_signature"]),
            (json!({}), vec!["compat_signature.format", "compat_signature.header"]),
            (json!({"format": "md5", "header": "x-a"}), vec!["compat_signature.format"]),
            (json!({"format": "sha256-hex", "header": "x a"}), vec!["compat_signature.header"]),
            (json!({"format": "sha256-hex", "header": "x-a", "secert": "x"}), vec!["compat_signature.secert"]),
        ] {
            let found: Vec<_> = read(&value).unwrap_err().into_iter().map(|error| error.field).collect();
            assert_eq!(found, fields, "{value}");
        }
        for header in ["webhook-signature", "Authorization", "content-type", "triggers-x", "Cookie", "host", "accept"] {
            assert!(read(&json!({"format": "sha256-hex", "header": header})).is_err(), "{header}");
        }
        for secret in ["fifteen-letters".to_owned(), "x".repeat(257), "has a blank in its middle".to_owned()] {
            let value = json!({"format": "sha256-hex", "header": "x-a", "secret": secret});
            let errors = read(&value).unwrap_err();
            assert!(!format!("{errors:?}").contains(&secret), "{errors:?}");
        }
    }
}
