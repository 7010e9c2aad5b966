//! Reads endpoints in pages, so that a dispatcher holds the rows of one page at a time.

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::store::StoredEndpoint;

/// Rows of one page.
pub(super) const PAGE_ROWS: usize = 500;

/// Which endpoints are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// All that are not deleted: for a cache that knows none.
    Live,
    /// All that changed, deleted ones as well: for a cache that must learn of deletions.
    Changed,
}

/// The last row that was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadUpTo {
    version: i64,
    id: Uuid,
}

impl ReadUpTo {
    /// All rows of this version and of older ones.
    pub(super) fn version(version: i64) -> Self {
        Self { version, id: Uuid::max() }
    }

    pub(super) fn row(endpoint: &StoredEndpoint) -> Self {
        Self { version: endpoint.version, id: endpoint.id.as_uuid() }
    }
}

/// The next rows, in the order of their versions. Fewer than [`PAGE_ROWS`]: there are no more. An endpoint that changes
/// between two pages gets a higher version, so it is not missed.
pub(super) async fn next(pool: &PgPool, rows: Rows, after: ReadUpTo) -> Result<Vec<StoredEndpoint>, sqlx::Error> {
    let sql = match rows {
        Rows::Live => {
            "SELECT * FROM endpoints WHERE deleted_at IS NULL AND (version, id) > ($1, $2)
             ORDER BY version, id LIMIT $3"
        }
        Rows::Changed => "SELECT * FROM endpoints WHERE (version, id) > ($1, $2) ORDER BY version, id LIMIT $3",
    };
    let limit = i64::try_from(PAGE_ROWS).unwrap_or(i64::MAX);
    sqlx::query_as(sql).bind(after.version).bind(after.id).bind(limit).fetch_all(pool).await
}
