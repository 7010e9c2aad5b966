//! Why authentication fails, and the responses to that and to database errors.

use std::time::Duration;

use http_server::Problem;
use runtime::postgres::{SqlEffect, effect};

/// Why a request is not authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key was sent.
    #[error("send an API key: Authorization: Bearer KEY, or X-API-Key: KEY")]
    Missing,
    /// No such key, or it is revoked or expired. Clients of older trigger APIs look for the first three words.
    #[error("Invalid API key: it is unknown, revoked or expired")]
    Unknown,
    /// A bad key, after too many others from the same address.
    #[error("too many unknown API keys from this address")]
    TooMany { wait: Duration },
    /// The key is not cached, and PostgreSQL does not answer.
    #[error("API keys cannot be checked at the moment")]
    Unavailable,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Missing | Refusal::Unknown => Self::unauthorized(text),
            Refusal::TooMany { wait } => {
                // Rounded up, so that a client that waits exactly this long is not refused again.
                let seconds = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
                Self::too_many_requests(text, seconds)
            }
            Refusal::Unavailable => Self::unavailable(text, 1),
        }
    }
}

/// The response to a database error. The error itself is logged.
pub(crate) fn database_problem(error: &sqlx::Error) -> Problem {
    match effect(error) {
        SqlEffect::Unavailable | SqlEffect::Retry => {
            tracing::warn!(%error, "PostgreSQL did not answer a tenancy request; answering 503");
            Problem::unavailable(
                "the database does not answer at the moment; nothing was changed, or it was changed and the answer got \
                 lost",
                1,
            )
        }
        SqlEffect::Data | SqlEffect::Fatal => {
            tracing::error!(%error, "Tenancy statement failed; answering 500");
            Problem::internal()
        }
    }
}
