//! Which generation of the view is written. Each lives in a PostgreSQL schema of its own, and a transaction says at its
//! begin into which it writes; the statements name their tables without one.

/// A generation of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// What the inbox reads.
    Live,
    /// What a rebuild makes beside it.
    Next,
}

impl Generation {
    /// Name of its schema.
    pub(crate) const fn schema(self) -> &'static str {
        match self {
            Self::Live => "view",
            Self::Next => "view_next",
        }
    }

    /// Begins a transaction that writes into it. Local to the transaction, so that a connection never carries it on.
    pub(crate) const fn begin(self) -> &'static str {
        match self {
            Self::Live => "BEGIN; SET LOCAL search_path TO view, public",
            Self::Next => "BEGIN; SET LOCAL search_path TO view_next, public",
        }
    }
}
