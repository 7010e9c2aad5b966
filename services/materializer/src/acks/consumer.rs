//! Refuses a caller without the right to acknowledge before the body of the request is read.

use axum::extract::FromRequestParts;
use http::request::Parts;
use http_server::Problem;
use tenancy::{Caller, Right};

use crate::state::InboxState;

/// A key that may acknowledge.
pub(super) struct Consumer(pub(super) Caller);

impl FromRequestParts<InboxState> for Consumer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &InboxState) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.require(Right::Consume)?;
        Ok(Self(caller))
    }
}
