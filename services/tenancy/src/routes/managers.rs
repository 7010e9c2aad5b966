//! Refuses a caller without the right to change an organization before the body of the request is read.

use axum::extract::{FromRef, FromRequestParts};
use http::request::Parts;
use http_server::{InvalidQuery, Problem};

use crate::caller::Caller;
use crate::operator::OperatorToken;
use crate::role::Right;
use crate::service::Tenancy;

/// Who may change an organization: the operator, or a key with the right of an admin.
pub(super) enum OrganizationManager {
    Operator,
    Key(Caller),
}

impl FromRequestParts<Tenancy> for OrganizationManager {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Tenancy) -> Result<Self, Problem> {
        if OperatorToken::from_ref(state).is_of(&parts.headers) {
            InvalidQuery::check(&parts.extensions)?;
            return Ok(Self::Operator);
        }
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.require(Right::Admin)?;
        Ok(Self::Key(caller))
    }
}
