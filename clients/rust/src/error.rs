//! Errors of calls.

use std::sync::Arc;
use std::time::Duration;

use crate::problem::Problem;

/// Why a call failed. No text of an error contains the API key.
///
/// ```no_run
/// # use triggers_client::{Client, Error, Event};
/// # async fn example(client: Client, event: Event) -> Result<(), Error> {
/// match client.send(&event).await {
///     Ok(accepted) => println!("{}", accepted.event_id),
///     Err(error) if error.is_retryable() => println!("keep the event and send it later: {error}"),
///     Err(error) if error.code() == Some("forbidden") => println!("the key may not send this type"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings or the arguments are invalid. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The server answered with an error status.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// There is no complete answer: no connection, a time-out, or a connection that broke. The server may have done
    /// what it was asked for.
    #[error("no complete answer: {context}")]
    NoAnswer {
        /// What went wrong.
        context: &'static str,
        /// The cause. Its text has no URL.
        source: Arc<reqwest::Error>,
    },
    /// The answer is not one of Triggers, or of another version.
    #[error("cannot use the answer (HTTP {status}): {reason}")]
    Answer {
        /// The HTTP status.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Whether the same call can succeed later: there was no answer, or it was 408, 429, 502, 503 or 504.
    ///
    /// A call has retried such an error already, until its [budget](crate::ClientBuilder::retry_budget) was used up.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::Problem(problem) => problem.is_retryable(),
            Self::Invalid(_) | Self::Answer { .. } => false,
        }
    }

    /// The answer of the server, if it answered with an error.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// The stable error code of the answer, such as `rate_limit_exceeded`.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.problem()?.code.as_deref()
    }

    /// How long the server asks to wait before the next attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.problem()?.retry_after
    }

    pub(crate) fn no_answer(error: reqwest::Error) -> Self {
        if error.is_builder() {
            return Self::Invalid(format!("the request cannot be built: {}", error.without_url()));
        }
        let context = if error.is_connect() {
            "cannot connect; is the system running?"
        } else if error.is_timeout() {
            "timed out"
        } else {
            "the connection broke"
        };
        Self::NoAnswer { context, source: Arc::new(error.without_url()) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An error without an answer.
    pub(crate) fn timed_out() -> Error {
        // The only error that can be made without a request is one of the builder.
        let source = reqwest::Proxy::all("::").map(drop).unwrap_err();
        Error::NoAnswer { context: "timed out", source: Arc::new(source) }
    }

    /// An answer with an error status.
    pub(crate) fn problem(status: u16, code: &str, retry_after_seconds: Option<u64>) -> Error {
        let retry_after = retry_after_seconds.map(Duration::from_secs);
        Error::Problem(Box::new(Problem { code: Some(code.to_owned()), retry_after, ..Problem::of_status(status) }))
    }

    #[test]
    fn an_error_has_the_code_of_its_answer() {
        let error = problem(429, "rate_limit_exceeded", Some(3));
        assert_eq!((error.code(), error.retry_after()), (Some("rate_limit_exceeded"), Some(Duration::from_secs(3))));
        assert_eq!((timed_out().code(), timed_out().retry_after()), (None, None));
    }
}
