//! Seals and opens the secrets of an endpoint under its id: the signing secret, the headers, and what it has to
//! authenticate and to sign beside that.

use runtime::seal::SealingKey;
use schemas::ids::EndpointId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::compat_signature::CompatSignature;
use super::headers::Headers;
use super::receiver_auth::ReceiverAuth;
use crate::attempt::sign::Secret;

const SECRET: &str = "endpoint-secret";
const HEADERS: &str = "endpoint-headers";
const AUTH: &str = "endpoint-auth";
const COMPAT_SIGNATURE: &str = "endpoint-compat-signature";

pub(crate) fn seal_secret(key: &SealingKey, id: EndpointId, secret: &Secret) -> Vec<u8> {
    key.seal(SECRET, id.as_uuid().as_bytes(), secret.as_bytes())
}

/// `None`: another key sealed the secret.
pub(crate) fn open_secret(key: &SealingKey, id: EndpointId, sealed: &[u8]) -> Option<Secret> {
    Secret::from_bytes(&key.open(SECRET, id.as_uuid().as_bytes(), sealed)?)
}

/// `None`: there are no headers.
pub(crate) fn seal_headers(key: &SealingKey, id: EndpointId, headers: &Headers) -> Option<Vec<u8>> {
    if headers.is_empty() {
        return None;
    }
    let plain = serde_json::Value::from_iter(headers.iter().cloned()).to_string();
    Some(key.seal(HEADERS, id.as_uuid().as_bytes(), plain.as_bytes()))
}

/// `None`: another key sealed the headers.
pub(crate) fn open_headers(key: &SealingKey, id: EndpointId, sealed: Option<&[u8]>) -> Option<Headers> {
    let Some(sealed) = sealed else { return Some(Headers::new()) };
    let plain = key.open(HEADERS, id.as_uuid().as_bytes(), sealed)?;
    let headers: std::collections::BTreeMap<String, String> = serde_json::from_slice(&plain).ok()?;
    Some(headers.into_iter().collect())
}

pub(super) fn seal_auth(key: &SealingKey, id: EndpointId, auth: &ReceiverAuth) -> Vec<u8> {
    seal_json(key, AUTH, id, auth)
}

/// `None`: another key sealed it.
pub(super) fn open_auth(key: &SealingKey, id: EndpointId, sealed: &[u8]) -> Option<ReceiverAuth> {
    open_json(key, AUTH, id, sealed)
}

pub(super) fn seal_compat_signature(key: &SealingKey, id: EndpointId, signature: &CompatSignature) -> Vec<u8> {
    seal_json(key, COMPAT_SIGNATURE, id, signature)
}

/// `None`: another key sealed it.
pub(super) fn open_compat_signature(key: &SealingKey, id: EndpointId, sealed: &[u8]) -> Option<CompatSignature> {
    open_json(key, COMPAT_SIGNATURE, id, sealed)
}

fn seal_json(key: &SealingKey, purpose: &str, id: EndpointId, value: &impl Serialize) -> Vec<u8> {
    // It fails only for maps whose keys are no texts. The empty value of that case is not read back.
    let plain = serde_json::to_vec(value).unwrap_or_default();
    key.seal(purpose, id.as_uuid().as_bytes(), &plain)
}

fn open_json<T: DeserializeOwned>(key: &SealingKey, purpose: &str, id: EndpointId, sealed: &[u8]) -> Option<T> {
    serde_json::from_slice(&key.open(purpose, id.as_uuid().as_bytes(), sealed)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_open_only_under_their_endpoint_and_key() {
        let (key, id) = (SealingKey::from_bytes([1; 32]), EndpointId::generate());
        let secret = Secret::generate();
        let sealed = seal_secret(&key, id, &secret);
        assert_eq!(open_secret(&key, id, &sealed).unwrap().to_text(), secret.to_text());
        assert!(open_secret(&key, EndpointId::generate(), &sealed).is_none());
        assert!(open_secret(&SealingKey::from_bytes([2; 32]), id, &sealed).is_none());

        let headers = vec![("authorization".to_owned(), "Bearer x".to_owned()), ("x-a".to_owned(), "1".to_owned())];
        let sealed = seal_headers(&key, id, &headers).unwrap();
        assert!(!String::from_utf8_lossy(&sealed).contains("Bearer"));
        assert_eq!(open_headers(&key, id, Some(&sealed)), Some(headers));
        assert_eq!(open_headers(&key, EndpointId::generate(), Some(&sealed)), None);
        assert_eq!(
            (seal_headers(&key, id, &Headers::new()), open_headers(&key, id, None)),
            (None, Some(Headers::new()))
        );
    }

    #[test]
    fn credentials_open_only_as_what_they_are() {
        let (key, id) = (SealingKey::from_bytes([1; 32]), EndpointId::generate());
        let auth = ReceiverAuth::Bearer { token: "hush".to_owned() };
        let sealed = seal_auth(&key, id, &auth);
        assert!(!String::from_utf8_lossy(&sealed).contains("hush"));
        assert_eq!(open_auth(&key, id, &sealed), Some(auth));
        assert_eq!(open_auth(&key, EndpointId::generate(), &sealed), None);
        assert_eq!(open_auth(&SealingKey::from_bytes([2; 32]), id, &sealed), None);
        assert_eq!(open_compat_signature(&key, id, &sealed), None);
    }
}
