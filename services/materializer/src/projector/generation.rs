//! Generations of the view. Each has its own PostgreSQL schema. A transaction sets the schema when it starts; the
//! statements name their tables without a schema.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// The inbox reads this one.
    Live,
    /// A rebuild writes this one.
    Next,
}

impl Generation {
    /// PostgreSQL schema of the generation.
    pub(crate) const fn schema(self) -> &'static str {
        match self {
            Self::Live => "view",
            Self::Next => "view_next",
        }
    }

    /// Statements that start a transaction in the generation. `SET LOCAL` ends with the transaction, so the pooled
    /// connection keeps nothing of it.
    pub(crate) const fn begin(self) -> &'static str {
        match self {
            Self::Live => "BEGIN; SET LOCAL search_path TO view, public",
            Self::Next => "BEGIN; SET LOCAL search_path TO view_next, public",
        }
    }
}
