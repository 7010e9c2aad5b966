//! Whether two generations of the view show the same: rows and a checksum over their text, per organization and table.

use schemas::ids::OrgId;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

/// What is not the same for one organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Whose.
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

/// So many are told; the first ones say where to look.
const TOLD: i64 = 1000;

/// Effects that wait are not compared: they are applied at their own time. Nor is what goes anyway: of organizations
/// that are being erased, and what is below the floor. The live view has that until its part goes as a whole, which is
/// days later where the retention was lowered.
const TABLES: [(&str, &str); 3] = [
    (
        "events",
        "WITH live AS (SELECT org_id, count(*) AS n, sum(hashtextextended(t::text, 0)) AS s FROM view.events t
                        WHERE accepted_at >= (SELECT floor FROM view_floor) GROUP BY org_id),
              rebuilt AS (SELECT org_id, count(*) AS n, sum(hashtextextended(t::text, 0)) AS s FROM view_next.events t
                        WHERE accepted_at >= (SELECT floor FROM view_floor) GROUP BY org_id)
         SELECT org_id, COALESCE(live.n, 0), COALESCE(rebuilt.n, 0) FROM live FULL JOIN rebuilt USING (org_id)
         WHERE (live.n, live.s) IS DISTINCT FROM (rebuilt.n, rebuilt.s)
               AND NOT EXISTS (SELECT FROM contract.organizations o WHERE o.id = org_id AND o.status <> 'active')
         ORDER BY org_id LIMIT $1",
    ),
    (
        "deliveries",
        // All columns but when the last telling was appended, which is not known of old rows.
        // One whose attempts are all below the floor, or went with their part, is left until a sweep comes to it.
        "WITH live AS (SELECT org_id, count(*) AS n, sum(hashtextextended(ROW(org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts, last_started_at, last_status_code, last_error, next_attempt_at, created_at)::text, 0)) AS s FROM view.deliveries t
                        WHERE EXISTS (SELECT FROM view.delivery_attempts a WHERE a.org_id = t.org_id AND a.delivery_id = t.delivery_id
                                             AND a.appended_at >= (SELECT floor FROM view_floor))
                        GROUP BY org_id),
              rebuilt AS (SELECT org_id, count(*) AS n, sum(hashtextextended(ROW(org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts, last_started_at, last_status_code, last_error, next_attempt_at, created_at)::text, 0)) AS s FROM view_next.deliveries t
                        WHERE EXISTS (SELECT FROM view_next.delivery_attempts a WHERE a.org_id = t.org_id AND a.delivery_id = t.delivery_id
                                             AND a.appended_at >= (SELECT floor FROM view_floor))
                        GROUP BY org_id)
         SELECT org_id, COALESCE(live.n, 0), COALESCE(rebuilt.n, 0) FROM live FULL JOIN rebuilt USING (org_id)
         WHERE (live.n, live.s) IS DISTINCT FROM (rebuilt.n, rebuilt.s)
               AND NOT EXISTS (SELECT FROM contract.organizations o WHERE o.id = org_id AND o.status <> 'active')
         ORDER BY org_id LIMIT $1",
    ),
    (
        "delivery attempts",
        "WITH live AS (SELECT org_id, count(*) AS n, sum(hashtextextended(t::text, 0)) AS s FROM view.delivery_attempts t
                        WHERE appended_at >= (SELECT floor FROM view_floor) GROUP BY org_id),
              rebuilt AS (SELECT org_id, count(*) AS n, sum(hashtextextended(t::text, 0)) AS s FROM view_next.delivery_attempts t
                        WHERE appended_at >= (SELECT floor FROM view_floor) GROUP BY org_id)
         SELECT org_id, COALESCE(live.n, 0), COALESCE(rebuilt.n, 0) FROM live FULL JOIN rebuilt USING (org_id)
         WHERE (live.n, live.s) IS DISTINCT FROM (rebuilt.n, rebuilt.s)
               AND NOT EXISTS (SELECT FROM contract.organizations o WHERE o.id = org_id AND o.status <> 'active')
         ORDER BY org_id LIMIT $1",
    ),
];

/// Compares the live generation with the next one, as both stand now.
pub(super) async fn compare(connection: &mut PgConnection) -> Result<Vec<Difference>, sqlx::Error> {
    let mut differences = Vec::new();
    for (table, statement) in TABLES {
        let rows: Vec<(Uuid, i64, i64)> = sqlx::query_as(statement).bind(TOLD).fetch_all(&mut *connection).await?;
        let difference =
            |(org, live, rebuilt)| Difference { organization: OrgId::from_uuid(org), table, live, rebuilt };
        differences.extend(rows.into_iter().map(difference));
    }
    Ok(differences)
}
