//! What organizations have open: unfinished rows, and bytes of stored events.

use std::collections::BTreeMap;

use schemas::ids::OrgId;
use sqlx::postgres::PgConnection;

/// What an organization may have open. Deliveries beyond it fail at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenLimits {
    pub rows: i64,
    pub bytes: i64,
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
