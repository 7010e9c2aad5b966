//! The operator: the holder of the token from the configuration. It belongs to no organization and manages all.

use std::fmt;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use http::HeaderMap;
use http::request::Parts;
use http_server::{InvalidQuery, Problem};

use crate::auth::Authenticator;
use crate::extract::{bearer, counted_caller};
use crate::key::KeyHash;

/// A shorter token is refused unless the API listens on loopback.
const SHORTEST_TOKEN: usize = 16;
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

    /// Whether these headers have the token.
    ///
    /// It is compared for an address over its limit of bad keys too: else everybody behind the address of the operator,
    /// such as a proxy, could lock the operator out. A guess costs one hash, and no number of guesses finds a token of
    /// the length that [`check_operator_token`] demands.
    pub(crate) fn is_of(&self, headers: &HeaderMap) -> bool {
        bearer(headers).is_some_and(|token| self.is(token))
    }

    /// Compares hashes in constant time, so that timing shows neither content nor length.
    fn is(&self, presented: &str) -> bool {
        self.0.as_ref().is_some_and(|token| **token == KeyHash::of(presented))
    }
}

/// Refuses a token that can be guessed. `on_loopback`: whether the API listens on loopback only.
///
/// # Errors
/// When the token is shorter than 16 characters and the API can be reached from other machines.
pub fn check_operator_token(token: &str, on_loopback: bool) -> Result<(), ShortTokenError> {
    let length = token.trim().chars().count();
    if on_loopback || length == 0 || length >= SHORTEST_TOKEN { Ok(()) } else { Err(ShortTokenError) }
}

/// See [`check_operator_token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operator token has fewer than 16 characters; use 24 random characters or more")]
pub struct ShortTokenError;

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
        if OperatorToken::from_ref(state).is_of(&parts.headers) {
            InvalidQuery::check(&parts.extensions)?;
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
    fn a_short_token_is_refused_beyond_loopback() {
        assert_eq!(check_operator_token("fifteen charact", false), Err(ShortTokenError));
        assert_eq!(check_operator_token("fifteen charact", true), Ok(()));
        assert_eq!(check_operator_token("sixteen characte", false), Ok(()));
        assert_eq!(check_operator_token(" ", false), Ok(()), "a blank token closes the routes");
    }

    #[test]
    fn without_a_configured_token_none_is_accepted() {
        for none in [None, Some(String::new()), Some(" ".into())] {
            let token = OperatorToken::new(none);
            assert!(!token.is("") && !token.is(" "));
        }
    }
}
