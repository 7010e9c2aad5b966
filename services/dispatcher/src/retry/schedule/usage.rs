//! What organizations have open: unfinished rows, and bytes of stored events.

use std::collections::BTreeMap;

use schemas::ids::OrgId;
use sqlx::postgres::PgConnection;

/// What an organization may have open. Deliveries beyond it fail at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenLimits {
    /// Unfinished deliveries.
    pub rows: i64,
    /// Bytes of payloads that are stored for them.
    pub bytes: i64,
}

impl Default for OpenLimits {
    /// The defaults of the options.
    fn default() -> Self {
        Self { rows: 1_000_000, bytes: 4096 * 1024 * 1024 }
    }
}

pub(super) const TOO_MANY_OPEN: &str = "the organization has too many open deliveries";
pub(super) const TOO_MANY_BYTES: &str = "the open deliveries of the organization take too much space";

/// Why an organization may not have so many more open deliveries; `None`: it may. Concurrent callers can exceed the
/// limits by theirs.
pub(crate) async fn beyond(
    connection: &mut PgConnection,
    org_id: OrgId,
    more: i64,
    limits: OpenLimits,
) -> Result<Option<&'static str>, sqlx::Error> {
    let open: Option<(i64, i64)> =
        sqlx::query_as("SELECT open_rows, event_bytes FROM delivery_usage WHERE org_id = $1")
            .bind(org_id.as_uuid())
            .fetch_optional(connection)
            .await?;
    Ok(match open {
        Some((rows, _)) if rows + more > limits.rows => Some(TOO_MANY_OPEN),
        Some((_, bytes)) if bytes > limits.bytes => Some(TOO_MANY_BYTES),
        _ => None,
    })
}

/// Changes of rows and bytes by organization, in the order in which transactions lock the rows.
#[derive(Debug, Default)]
pub(super) struct UsageChange(BTreeMap<OrgId, (i64, i64)>);

impl UsageChange {
    pub(super) fn add_rows(&mut self, org_id: OrgId, rows: i64) {
        self.0.entry(org_id).or_default().0 += rows;
    }

    pub(super) fn add_bytes(&mut self, org_id: OrgId, bytes: i64) {
        self.0.entry(org_id).or_default().1 += bytes;
    }
}

/// Applies changes. It is the last statement of its transaction: every spill and outcome of an organization waits for
/// its row.
pub(super) async fn apply(connection: &mut PgConnection, change: UsageChange) -> Result<(), sqlx::Error> {
    let changes: Vec<_> = change.0.into_iter().filter(|(_, (rows, bytes))| *rows != 0 || *bytes != 0).collect();
    if changes.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO delivery_usage AS u (org_id, open_rows, event_bytes)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[])
         ON CONFLICT (org_id) DO UPDATE SET open_rows = u.open_rows + EXCLUDED.open_rows,
                                            event_bytes = u.event_bytes + EXCLUDED.event_bytes",
    )
    .bind(changes.iter().map(|(org_id, _)| org_id.as_uuid()).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, (rows, _))| *rows).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, (_, bytes))| *bytes).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
