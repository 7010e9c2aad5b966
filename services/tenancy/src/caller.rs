//! The caller of a request: the authenticated key and its rights, and the extractors for handlers of all slices.
//!
//! `auth` authenticates.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use platform::http::{PeerAddr, Problem};
use schemas::ids::{KeyId, OrgId};

use crate::auth::Authenticator;
use crate::refusal::Refusal;
use crate::role::{Right, Role};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The authenticated key of a request. The extractor answers 401, 429 or 503 when authentication fails.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The organization of the key. A request reads and writes only data of this organization.
    pub org_id: OrgId,
    pub key_id: KeyId,
    pub role: Role,
    /// The only event types that it may read or send; `None`: all.
    pub event_types: Option<Arc<[String]>>,
    /// Whether events with equal content are duplicates.
    pub content_dedup: bool,
}

impl Caller {
    /// # Errors
    /// 403 when the role of the key does not grant the right.
    pub fn require(&self, right: Right) -> Result<(), Problem> {
        if self.role.grants(right) {
            return Ok(());
        }
        Err(Problem::forbidden(format!("a key with the role {} may not do this", self.role.name())))
    }

    /// Whether the key may read and send events of this type.
    pub fn allows_event_type(&self, event_type: &str) -> bool {
        self.event_types.as_ref().is_none_or(|types| types.iter().any(|own| own == event_type))
    }
}

impl<S> FromRequestParts<S> for Caller
where
    Authenticator: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let from = client_address(parts, state).await;
        let presented = presented_key(&parts.headers).ok_or(Refusal::Missing)?;
        Ok(Authenticator::from_ref(state).authenticate(presented, from).await?)
    }
}

/// The key of a request in clear text, for a handler that waited and must check whether the key is still valid.
pub struct PresentedKey {
    key: Box<str>,
    from: IpAddr,
}

impl PresentedKey {
    /// Authenticates the key again.
    ///
    /// # Errors
    /// When the key is not valid any more. See [`Refusal`].
    pub async fn authenticate_again(&self, authenticator: &Authenticator) -> Result<(), Problem> {
        authenticator.authenticate(&self.key, self.from).await?;
        Ok(())
    }
}

impl<S: Sync> FromRequestParts<S> for PresentedKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let from = client_address(parts, state).await;
        let key = presented_key(&parts.headers).ok_or(Refusal::Missing)?;
        Ok(Self { key: Box::from(key), from })
    }
}

/// The address for which bad keys are counted.
pub(crate) async fn client_address<S: Sync>(parts: &mut Parts, state: &S) -> IpAddr {
    let Ok(PeerAddr(peer)) = PeerAddr::from_request_parts(parts, state).await;
    peer.ip()
}

/// The key in `Authorization: Bearer` or, without that, in `X-API-Key`.
pub(crate) fn presented_key(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).or_else(|| headers.get(X_API_KEY)?.to_str().ok().map(str::trim)).filter(|key| !key.is_empty())
}

/// The token after `Bearer` (case-insensitive) in the `Authorization` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_key_is_read_from_either_header() {
        assert_eq!(presented_key(&headers(&[("authorization", "Bearer k")])), Some("k"));
        assert_eq!(presented_key(&headers(&[("authorization", "bearer  k ")])), Some("k"));
        assert_eq!(presented_key(&headers(&[("x-api-key", "k")])), Some("k"));
        assert_eq!(presented_key(&headers(&[("authorization", "Basic eA=="), ("x-api-key", "k")])), Some("k"));
        for none in [&[][..], &[("authorization", "k")], &[("authorization", "Bearer ")], &[("x-api-key", " ")]] {
            assert_eq!(presented_key(&headers(none)), None, "{none:?}");
        }
    }

    #[test]
    fn a_restricted_key_is_limited_to_its_event_types() {
        let mut caller = Caller {
            org_id: OrgId::generate(),
            key_id: KeyId::generate(),
            role: Role::Consume,
            event_types: None,
            content_dedup: false,
        };
        assert!(caller.allows_event_type("a"));
        caller.event_types = Some(Arc::from(["a".to_owned()]));
        assert!(caller.allows_event_type("a") && !caller.allows_event_type("ab"));
        assert!(caller.require(Right::Consume).is_ok());
        assert_eq!(caller.require(Right::Produce).unwrap_err().error_code(), "forbidden");
    }
}
