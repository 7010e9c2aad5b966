//! Refuses a caller that may not write endpoints and deliveries before the body of the request is read.

use axum::extract::{FromRef, FromRequestParts};
use http::request::Parts;
use http_server::Problem;
use tenancy::{Authenticator, Caller, Manager};

/// A key that may write endpoints and retry deliveries. One that is restricted to event types may not: its endpoints
/// would get events that it may not read.
pub(crate) struct EndpointWriter(pub(crate) Caller);

impl<S> FromRequestParts<S> for EndpointWriter
where
    Authenticator: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Manager(caller) = Manager::from_request_parts(parts, state).await?;
        if caller.event_types.is_some() {
            let text = "a key that is restricted to event types cannot change endpoints or retry deliveries";
            return Err(Problem::forbidden(text));
        }
        Ok(Self(caller))
    }
}
