//! How a command ends badly: wrong usage (exit code 2) or a failure on the way (exit code 1). A missed threshold is no
//! error: it is a result.

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or the configuration asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// Something on the way failed.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
        }
    }
}
