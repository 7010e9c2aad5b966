//! Counts the changes of an organization's endpoints: each is read by every dispatcher, and they are serialized.

use http::{HeaderValue, StatusCode, header};
use http_server::Problem;
use schemas::ids::OrgId;
use sqlx::postgres::PgConnection;

use super::problems::failed;

/// Counts a change over all instances. It is the first statement of the transaction of the change, so that an
/// organization that changes too much does not take the lock of the others. What is rolled back does not count.
///
/// # Errors
/// 429 with `Retry-After` when the organization has made `max_per_hour` changes within the hour that began with the
/// first of them.
pub(super) async fn count(conn: &mut PgConnection, org_id: OrgId, max_per_hour: u32) -> Result<(), Problem> {
    let (changes, seconds_left): (i64, i64) = sqlx::query_as(
        "INSERT INTO endpoint_changes AS c (org_id, started_at, changes) VALUES ($1, now(), 1)
         ON CONFLICT (org_id) DO UPDATE
             SET started_at = CASE WHEN c.started_at <= now() - interval '1 hour' THEN now() ELSE c.started_at END,
                 changes = CASE WHEN c.started_at <= now() - interval '1 hour' THEN 1 ELSE c.changes + 1 END
         RETURNING changes::bigint, ceil(extract(epoch FROM started_at + interval '1 hour' - now()))::bigint",
    )
    .bind(org_id.as_uuid())
    .fetch_one(conn)
    .await
    .map_err(failed)?;
    if changes <= i64::from(max_per_hour) {
        return Ok(());
    }
    let seconds = seconds_left.max(1);
    let detail = format!("{max_per_hour} changes of endpoints an hour for this organization; try again in {seconds} s");
    Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", detail)
        .with_header(header::RETRY_AFTER, HeaderValue::from(seconds)))
}

/// Deletes the count of an organization that is being erased.
pub(super) async fn erase(conn: &mut PgConnection, org_id: OrgId) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM endpoint_changes WHERE org_id = $1").bind(org_id.as_uuid()).execute(conn).await?;
    Ok(())
}
