//! How requests of an endpoint authenticate to its receiver, ready to use.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use schemas::ids::EndpointId;
use sha2::{Digest, Sha256};
use url::{Url, form_urlencoded};

use crate::attempt::client_certificate::ClientCertificate;
use crate::endpoints::receiver_auth::{ClientCredentials, ReceiverAuth};

/// `Debug` hides all secrets.
#[derive(Debug, Clone)]
pub(crate) enum Authorization {
    /// Value of the header `Authorization`; marked as sensitive.
    Header(HeaderValue),
    /// The header has a token that is fetched first.
    Token(Arc<TokenSource>),
    /// Connections have a certificate.
    Certificate(ClientCertificate),
}

impl Authorization {
    /// `None`: it cannot be used. What was stored was checked, so only a change of the program leads there.
    pub(crate) fn of(endpoint_id: EndpointId, auth: &ReceiverAuth) -> Option<Self> {
        Some(match auth {
            ReceiverAuth::Basic { username, password } => Self::Header(basic(username, password)?),
            ReceiverAuth::Bearer { token } => Self::Header(bearer(token)?),
            ReceiverAuth::OAuth2(credentials) => Self::Token(Arc::new(TokenSource::of(endpoint_id, credentials)?)),
            ReceiverAuth::Mtls { certificate, private_key } => {
                Self::Certificate(ClientCertificate::load(endpoint_id, certificate, private_key).ok()?)
            }
        })
    }
}

/// Where the tokens of an endpoint come from.
pub(crate) struct TokenSource {
    pub endpoint_id: EndpointId,
    /// Of all that follows: other credentials are another source.
    pub sha256: [u8; 32],
    pub url: Url,
    /// Value of the header `Authorization` of the request for a token.
    pub authorization: HeaderValue,
    /// Its body, a form.
    pub form: Bytes,
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource").field("endpoint_id", &self.endpoint_id).finish_non_exhaustive()
    }
}

impl TokenSource {
    fn of(endpoint_id: EndpointId, credentials: &ClientCredentials) -> Option<Self> {
        let ClientCredentials { token_url, client_id, client_secret, scope, audience } = credentials;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", scope), ("audience", audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let form = form.finish();
        // RFC 6749, 2.3.1: both are encoded as in a form first.
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let authorization = basic(&encoded(client_id), &encoded(client_secret))?;
        let mut hash = Sha256::new();
        for part in [token_url.as_bytes(), authorization.as_bytes(), form.as_bytes()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let (url, sha256) = (Url::parse(token_url).ok()?, hash.finalize().into());
        Some(Self { endpoint_id, sha256, url, authorization, form: form.into() })
    }
}

fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    sensitive(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// `None`: the token cannot be sent in a header.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn credentials(token_url: &str, client_secret: &str) -> ReceiverAuth {
        ReceiverAuth::OAuth2(ClientCredentials {
            token_url: token_url.to_owned(),
            client_id: "shop: 1".to_owned(),
            client_secret: client_secret.to_owned(),
            scope: Some("a b".to_owned()),
            audience: None,
        })
    }

    fn source(token_url: &str, client_secret: &str) -> Arc<TokenSource> {
        match Authorization::of(EndpointId::generate(), &credentials(token_url, client_secret)).unwrap() {
            Authorization::Token(source) => source,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn basic_and_bearer_are_headers_that_are_not_shown() {
        let basic = ReceiverAuth::Basic { username: "Aladdin".to_owned(), password: "open sesame".to_owned() };
        let bearer = ReceiverAuth::Bearer { token: "mF_9.B5f-4.1JqM".to_owned() };
        for (auth, wanted) in [(basic, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), (bearer, "Bearer mF_9.B5f-4.1JqM")] {
            let authorization = Authorization::of(EndpointId::generate(), &auth).unwrap();
            let Authorization::Header(value) = &authorization else { panic!("{authorization:?}") };
            assert_eq!(value, wanted);
            assert!(!format!("{authorization:?}").contains(&wanted[7..]), "{authorization:?}");
        }
    }

    #[test]
    fn a_token_request_is_a_form_with_basic_authentication() {
        let source = source("https://id.example/token", "p\u{e4}ss");
        assert_eq!(source.form, "grant_type=client_credentials&scope=a+b");
        let decoded = STANDARD.decode(source.authorization.to_str().unwrap().strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(decoded, b"shop%3A+1:p%C3%A4ss");
        assert!(source.authorization.is_sensitive() && !format!("{source:?}").contains("Basic"));
    }

    #[test]
    fn other_credentials_are_another_source() {
        let one = source("https://id.example/", "a");
        assert_eq!(one.sha256, source("https://id.example/", "a").sha256);
        assert_ne!(one.sha256, source("https://id.example/", "b").sha256);
        assert_ne!(one.sha256, source("https://id.example/t", "a").sha256);
    }
}
