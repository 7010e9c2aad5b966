//! The operator: the holder of the token from the configuration. It belongs to no organization and manages all.

use std::fmt;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use http::request::Parts;
use http_server::Problem;

use crate::auth::Authenticator;
use crate::extract::{bearer, counted_caller};
use crate::key::KeyHash;

/// A shorter token is guessable; a warning is logged.
const SHORTEST_GOOD_TOKEN: usize = 24;

/// The operator's token, as a hash that `Debug` hides. Without one, the operator's routes are closed.
#[derive(Clone)]
pub struct OperatorToken(Option<Arc<KeyHash>>);

impl OperatorToken {
    /// A blank token counts as none.
    pub fn new(token: Option<String>) -> Self {
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| token.len() < SHORTEST_GOOD_TOKEN) {
            tracing::warn!("Operator token is short; use {SHORTEST_GOOD_TOKEN} random characters or more");
        }
        Self(token.map(|token| Arc::new(KeyHash::of(&token))))
    }

    /// Compares hashes in constant time, so that timing shows neither content nor length.
    fn is(&self, presented: &str) -> bool {
        self.0.as_ref().is_some_and(|token| **token == KeyHash::of(presented))
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorToken(..)")
    }
}

/// Extractor of requests with the operator's token. A valid API key gets 403; other credentials count as a bad key.
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
        if bearer(&parts.headers).is_some_and(|token| OperatorToken::from_ref(state).is(token)) {
            return Ok(Self(()));
        }
        counted_caller(parts, state).await?;
        Err(Problem::forbidden("only the operator may do this"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_configured_token_is_accepted() {
        let token = OperatorToken::new(Some("a token of the operator".into()));
        assert!(token.is("a token of the operator"));
        assert!(!token.is("a token of the operatoR") && !token.is(""));
        assert_eq!(format!("{token:?}"), "OperatorToken(..)");
    }

    #[test]
    fn without_a_configured_token_none_is_accepted() {
        for none in [None, Some(String::new()), Some(" ".into())] {
            let token = OperatorToken::new(none);
            assert!(!token.is("") && !token.is(" "));
        }
    }
}
