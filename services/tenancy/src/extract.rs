//! Extractors for handlers of all slices: authenticates the key in the headers of a request.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use http_server::{ClientAddress, InvalidQuery, Problem, RequestContext};

use crate::auth::Authenticator;
use crate::caller::Caller;
use crate::key::KeyHash;
use crate::refusal::Refusal;
use crate::role::Right;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Answers 401, 429 or 503 when authentication fails, 429 or 503 when too many requests are open, and counts the
/// request: 429 when it exceeds a rate limit. Then answers a query that the route did not declare.
impl<S> FromRequestParts<S> for Caller
where
    Authenticator: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = counted_caller(parts, state).await?;
        InvalidQuery::check(&parts.extensions)?;
        Ok(caller)
    }
}

/// Makes an extractor of a caller with a right. It is refused before the query is looked at and the body is read.
macro_rules! caller_with {
    ($right:expr, $(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name(pub Caller);

        impl<S> FromRequestParts<S> for $name
        where
            Authenticator: FromRef<S>,
            S: Send + Sync,
        {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
                let caller = counted_caller(parts, state).await?;
                caller.require($right)?;
                InvalidQuery::check(&parts.extensions)?;
                Ok(Self(caller))
            }
        }
    };
}

caller_with!(
    Right::Consume,
    /// A caller that may read the inbox and acknowledge.
    Consumer
);
caller_with!(
    Right::Manage,
    /// A caller that may manage endpoints and keys.
    Manager
);

/// The caller of a request, which counts as one.
pub(crate) async fn counted_caller<S>(parts: &mut Parts, state: &S) -> Result<Caller, Problem>
where
    Authenticator: FromRef<S>,
    S: Send + Sync,
{
    let from = client_address(parts, state).await;
    let presented = presented_key(&parts.headers).ok_or(Refusal::Missing)?;
    let authenticator = Authenticator::from_ref(state);
    // Development keys trust loopback. A proxy on this machine would make them public.
    if is_forwarded(&parts.headers) && authenticator.is_development(&KeyHash::of(presented)) {
        return Err(Problem::forbidden("a development key is refused behind a proxy"));
    }
    let mut caller = authenticator.authenticate(presented, from).await?;
    if let Some(context) = parts.extensions.get::<RequestContext>() {
        caller.rate_limit = context.rate_limit.clone();
        context.belongs_to(caller.shares().holder());
    }
    caller.request = Some(Arc::new(caller.shares().take_request()?));
    caller.limits.count(1, &caller.rate_limit).await?;
    Ok(caller)
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

/// Whether a proxy has passed the request on.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    [header::FORWARDED, header::VIA, X_FORWARDED_FOR].iter().any(|name| headers.contains_key(name))
}

/// The address for which bad keys are counted.
pub(crate) async fn client_address<S: Sync>(parts: &mut Parts, state: &S) -> IpAddr {
    let Ok(ClientAddress(address)) = ClientAddress::from_request_parts(parts, state).await;
    address
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
}
