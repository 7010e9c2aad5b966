//! Refuses a caller that may not write endpoints before the body of the request is read.

use axum::extract::FromRequestParts;
use http::request::Parts;
use http_server::Problem;
use tenancy::{Caller, Manager};

use super::EndpointsState;

/// A key that may write endpoints. One that is restricted to event types may not: its endpoints would get events that
/// it may not read.
pub(super) struct EndpointWriter(pub(super) Caller);

impl FromRequestParts<EndpointsState> for EndpointWriter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &EndpointsState) -> Result<Self, Problem> {
        let Manager(caller) = Manager::from_request_parts(parts, state).await?;
        if caller.event_types.is_some() {
            let text = "a key that is restricted to event types cannot create or change endpoints";
            return Err(Problem::forbidden(text));
        }
        Ok(Self(caller))
    }
}
