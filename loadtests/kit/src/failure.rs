//! Why a command has no result: wrong usage (exit code 2) or an error while it ran (exit code 1).
//!
//! A missed threshold or a violation is a result, not a failure.

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or the configuration is invalid.
    #[error("{0}")]
    Usage(String),
    /// The command failed while it ran.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
        }
    }

    /// Prints the failure of `program` to standard error.
    pub fn print(&self, program: &str) {
        match self {
            Self::Usage(text) => eprintln!("{program}: {text}"),
            Self::Failed(error) => eprintln!("{program}: {error:#}"),
        }
    }
}
