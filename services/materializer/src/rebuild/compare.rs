//! Compares two generations of the view: number of rows and a checksum over their text, per organization and table.

use schemas::ids::OrgId;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

/// A difference in one table, for one organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewDifference {
    pub organization: OrgId,
    /// Name of the table.
    pub table: &'static str,
    /// Number of rows in the live view.
    pub live: i64,
    /// Number of rows in the rebuilt view; equal to `live` if only the content differs.
    pub rebuilt: i64,
}

impl std::fmt::Display for ViewDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { organization, table, live, rebuilt } = self;
        if live == rebuilt {
            write!(f, "{organization}: {table}: {live} rows each, with different content")
        } else {
            write!(f, "{organization}: {table}: {live} rows live, {rebuilt} rebuilt")
        }
    }
}

/// Maximum number of reported differences per table.
const MAX_REPORTED: i64 = 1000;

/// The compared tables: display name, table name, and the condition for rows above the retention floor; `{view}` is the
/// schema. The live view has rows below the floor until their time partition is dropped, which is days later if the
/// retention was lowered. The row of a delivery whose attempts are all below the floor is left until it is swept.
/// Pending effects are not compared: both generations apply them at different times.
const TABLES: [(&str, &str, &str); 3] = [
    ("events", "events", "t.accepted_at >= (SELECT floor FROM retention_floor)"),
    (
        "deliveries",
        "deliveries",
        "EXISTS (SELECT FROM {view}.delivery_attempts a WHERE a.org_id = t.org_id AND a.delivery_id = t.delivery_id
                 AND a.appended_at >= (SELECT floor FROM retention_floor))",
    ),
    ("delivery attempts", "delivery_attempts", "t.appended_at >= (SELECT floor FROM retention_floor)"),
];

/// Query for the number of rows and a checksum of one generation, per organization.
fn sums(schema: &str, table: &str, is_kept: &str) -> String {
    format!(
        "SELECT org_id, count(*) AS n, sum(hashtextextended(t::text, 0)) AS s
         FROM {schema}.{table} t WHERE {is_kept} GROUP BY org_id",
        is_kept = is_kept.replace("{view}", schema)
    )
}

/// Query for the organizations whose rows differ, except those that are being erased.
fn statement(table: &str, is_kept: &str) -> String {
    let (live, rebuilt) = (sums("view", table, is_kept), sums("view_next", table, is_kept));
    format!(
        "WITH live AS ({live}), rebuilt AS ({rebuilt})
         SELECT org_id, COALESCE(live.n, 0), COALESCE(rebuilt.n, 0) FROM live FULL JOIN rebuilt USING (org_id)
         WHERE (live.n, live.s) IS DISTINCT FROM (rebuilt.n, rebuilt.s)
               AND NOT EXISTS (SELECT FROM contract.organizations o WHERE o.id = org_id AND o.status <> 'active')
         ORDER BY org_id LIMIT $1"
    )
}

/// Compares the live generation with the next one, as both are now.
pub(super) async fn compare(connection: &mut PgConnection) -> Result<Vec<ViewDifference>, sqlx::Error> {
    let mut differences = Vec::new();
    for (display_name, table, is_kept) in TABLES {
        // Safe: built from constants.
        let statement = AssertSqlSafe(statement(table, is_kept));
        let rows: Vec<(Uuid, i64, i64)> =
            sqlx::query_as(statement).bind(MAX_REPORTED).fetch_all(&mut *connection).await?;
        let difference = |(org, live, rebuilt)| ViewDifference {
            organization: OrgId::from_uuid(org),
            table: display_name,
            live,
            rebuilt,
        };
        differences.extend(rows.into_iter().map(difference));
    }
    Ok(differences)
}
