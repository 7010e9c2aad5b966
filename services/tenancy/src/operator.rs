//! The operator: whoever holds the token from configuration. It stands above organizations and belongs to none.

use std::fmt;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use http::request::Parts;
use platform::http::Problem;

use crate::auth::Authenticator;
use crate::caller::{bearer, client_address, presented_key};
use crate::key::KeyHash;
use crate::refusal::Refusal;

/// Below this a token is guessable, and its use is warned of.
const SHORTEST_GOOD_TOKEN: usize = 24;

/// The operator's token, or none: then the operator's routes are closed. Kept as a hash; `Debug` hides even that.
#[derive(Clone)]
pub struct OperatorToken(Option<Arc<KeyHash>>);

impl OperatorToken {
    /// Takes the token from configuration; blank is none.
    pub fn new(token: Option<String>) -> Self {
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| token.len() < SHORTEST_GOOD_TOKEN) {
            tracing::warn!("The operator token is short: {SHORTEST_GOOD_TOKEN} random characters or more are advised.");
        }
        Self(token.map(|token| Arc::new(KeyHash::of(&token))))
    }

    /// Whether this is the token. Hashes are compared, in constant time, so that neither content nor length shows.
    fn is(&self, presented: &str) -> bool {
        self.0.as_ref().is_some_and(|token| **token == KeyHash::of(presented))
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorToken(..)")
    }
}

/// Proof that the operator calls. As an extractor: a known key gets 403, anything else is answered as a bad key.
#[derive(Debug, Clone, Copy)]
pub struct Operator(());

impl<S> FromRequestParts<S> for Operator
where
    OperatorToken: FromRef<S>,
    Authenticator: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let from = client_address(parts, state).await;
        if bearer(&parts.headers).is_some_and(|token| OperatorToken::from_ref(state).is(token)) {
            return Ok(Self(()));
        }
        let presented = presented_key(&parts.headers).ok_or(Refusal::Missing)?;
        Authenticator::from_ref(state).authenticate(presented, from).await?;
        Err(Problem::forbidden("only the operator may do this"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_configured_token_is_the_operators() {
        let token = OperatorToken::new(Some("a token of the operator".into()));
        assert!(token.is("a token of the operator"));
        assert!(!token.is("a token of the operatoR") && !token.is(""));
        assert_eq!(format!("{token:?}"), "OperatorToken(..)");
    }

    #[test]
    fn without_a_token_nobody_is_the_operator() {
        for none in [None, Some(String::new()), Some(" ".into())] {
            let token = OperatorToken::new(none);
            assert!(!token.is("") && !token.is(" "));
        }
    }
}
