//! Why a caller is turned away, and how that and a database error look to it.

use std::time::Duration;

use platform::http::Problem;
use platform::postgres::{SqlEffect, effect};

/// Why there is no caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key was sent.
    #[error("send an API key: Authorization: Bearer KEY, or X-API-Key: KEY")]
    Missing,
    /// The key is none of ours, or no longer.
    #[error("this API key is not known")]
    Unknown,
    /// A bad key, after too many others from the same address.
    #[error("too many unknown API keys from this address")]
    TooMany {
        /// How long to stay away.
        wait: Duration,
    },
    /// Whether the key is good cannot be told at the moment.
    #[error("API keys cannot be checked at the moment")]
    Unavailable,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Missing | Refusal::Unknown => Self::unauthorized(text),
            Refusal::TooMany { wait } => {
                // Rounded up: whoever waits exactly so long is let in.
                let seconds = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
                Self::too_many_requests(text, seconds)
            }
            Refusal::Unavailable => Self::unavailable(text, 1),
        }
    }
}

/// How a database error looks from outside. What happened goes to the log.
pub(crate) fn database_problem(error: &sqlx::Error) -> Problem {
    match effect(error) {
        SqlEffect::Unavailable | SqlEffect::Retry => {
            tracing::warn!(%error, "PostgreSQL did not answer a tenancy request.");
            Problem::unavailable(
                "the database does not answer at the moment; nothing was changed, or it was changed and the answer got lost",
                1,
            )
        }
        SqlEffect::Data | SqlEffect::Fatal => {
            tracing::error!(%error, "A tenancy statement failed.");
            Problem::internal()
        }
    }
}
