//! Who calls: what a handler learns of the key behind a request, and the extractor that finds it out.
//!
//! Finding out lives in `auth`; this is the part that other slices see.

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

/// The key that a request was sent with. As an extractor it answers 401, 429 or 503 when there is none to be had.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The organization that the key belongs to. Everything the request touches is of this organization.
    pub org_id: OrgId,
    /// The key's public id.
    pub key_id: KeyId,
    /// What it may do.
    pub role: Role,
    /// The only event types it sees or sends; `None`: all.
    pub event_types: Option<Arc<[String]>>,
    /// Whether equal events sent with it are one.
    pub content_dedup: bool,
}

impl Caller {
    /// Asks for a right.
    ///
    /// # Errors
    /// 403 when the key's role does not grant it.
    pub fn require(&self, right: Right) -> Result<(), Problem> {
        if self.role.grants(right) {
            return Ok(());
        }
        Err(Problem::forbidden(format!("a key with the role {} may not do this", self.role.name())))
    }

    /// Whether events of this type exist for the key.
    pub fn may_see(&self, event_type: &str) -> bool {
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

/// The key as it was presented: for a handler that waited, to ask again whether it still counts.
pub struct Presented {
    key: Box<str>,
    from: IpAddr,
}

impl Presented {
    /// Asks again.
    ///
    /// # Errors
    /// What the caller would be answered if the request came now.
    pub async fn still_counts(&self, authenticator: &Authenticator) -> Result<(), Problem> {
        authenticator.authenticate(&self.key, self.from).await?;
        Ok(())
    }
}

impl<S: Sync> FromRequestParts<S> for Presented {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let from = client_address(parts, state).await;
        let key = presented_key(&parts.headers).ok_or(Refusal::Missing)?;
        Ok(Self { key: Box::from(key), from })
    }
}

/// The address that bad keys are counted for.
pub(crate) async fn client_address<S: Sync>(parts: &mut Parts, state: &S) -> IpAddr {
    let Ok(PeerAddr(peer)) = PeerAddr::from_request_parts(parts, state).await;
    peer.ip()
}

/// The key in `Authorization: Bearer` or, without that, in `X-API-Key`.
pub(crate) fn presented_key(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).or_else(|| headers.get(X_API_KEY)?.to_str().ok().map(str::trim)).filter(|key| !key.is_empty())
}

/// What follows `Bearer`, in any case, in the `Authorization` header.
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
    fn a_key_comes_in_one_of_two_headers() {
        assert_eq!(presented_key(&headers(&[("authorization", "Bearer k")])), Some("k"));
        assert_eq!(presented_key(&headers(&[("authorization", "bearer  k ")])), Some("k"));
        assert_eq!(presented_key(&headers(&[("x-api-key", "k")])), Some("k"));
        assert_eq!(presented_key(&headers(&[("authorization", "Basic eA=="), ("x-api-key", "k")])), Some("k"));
        for none in [&[][..], &[("authorization", "k")], &[("authorization", "Bearer ")], &[("x-api-key", " ")]] {
            assert_eq!(presented_key(&headers(none)), None, "{none:?}");
        }
    }

    #[test]
    fn a_restricted_key_sees_only_its_event_types() {
        let mut caller = Caller {
            org_id: OrgId::generate(),
            key_id: KeyId::generate(),
            role: Role::Consume,
            event_types: None,
            content_dedup: false,
        };
        assert!(caller.may_see("a"));
        caller.event_types = Some(Arc::from(["a".to_owned()]));
        assert!(caller.may_see("a") && !caller.may_see("ab"));
        assert!(caller.require(Right::Consume).is_ok());
        assert_eq!(caller.require(Right::Produce).unwrap_err().error_code(), "forbidden");
    }
}
