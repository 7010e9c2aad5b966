//! Whether two generations of the view show the same: rows and a checksum over their text, per organization and table.

use schemas::ids::OrgId;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

/// What is not the same for one organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub organization: OrgId,
    /// Which table of the view.
    pub table: &'static str,
    /// Rows in the live view.
    pub live: i64,
    /// Rows in the rebuilt one; the same number where their content differs.
    pub rebuilt: i64,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { organization, table, live, rebuilt } = self;
        if live == rebuilt {
            write!(f, "{organization}: {table}: {live} rows each, of different content")
        } else {
            write!(f, "{organization}: {table}: {live} rows live, {rebuilt} rebuilt")
        }
    }
}

/// So many are reported; the first ones say where to look.
const REPORTED: i64 = 1000;

/// The tables that are compared: what the difference calls them, their names, and which rows are above the retention
/// floor; `{view}` is the schema. The live view has rows below the floor until their time partition is dropped, which
/// is days later where the retention was lowered. Of a delivery whose attempts are all below it a row is left until a
/// sweep comes to it. Pending effects are not compared: they are applied at their own time.
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

/// Rows and a checksum of one generation, per organization.
fn sums(schema: &str, table: &str, is_kept: &str) -> String {
    format!(
        "SELECT org_id, count(*) AS n, sum(hashtextextended(t::text, 0)) AS s
         FROM {schema}.{table} t WHERE {is_kept} GROUP BY org_id",
        is_kept = is_kept.replace("{view}", schema)
    )
}

/// The organizations whose rows differ, but for those that are being erased.
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
pub(super) async fn compare(connection: &mut PgConnection) -> Result<Vec<Difference>, sqlx::Error> {
    let mut differences = Vec::new();
    for (called, table, is_kept) in TABLES {
        // Made of constants.
        let statement = AssertSqlSafe(statement(table, is_kept));
        let rows: Vec<(Uuid, i64, i64)> = sqlx::query_as(statement).bind(REPORTED).fetch_all(&mut *connection).await?;
        let difference =
            |(org, live, rebuilt)| Difference { organization: OrgId::from_uuid(org), table: called, live, rebuilt };
        differences.extend(rows.into_iter().map(difference));
    }
    Ok(differences)
}
