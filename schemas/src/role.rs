//! The roles of the product's binary.

/// A role: one process, with a Kafka user of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `triggers ingest`: serves the HTTP API.
    Ingest,
    /// `triggers materializer`: writes the view.
    Materializer,
    /// `triggers dispatcher`: sends webhooks.
    Dispatcher,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Materializer, Self::Dispatcher];

    /// Its command, and the name of its positions in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Materializer => crate::topics::MATERIALIZER,
            Self::Dispatcher => "dispatcher",
        }
    }
}
