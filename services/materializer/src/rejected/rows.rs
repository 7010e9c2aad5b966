//! Rows of `rejected`: the log positions that were rejected, and the reason that a tenant may see. They are written in
//! the transaction that moves the consumer position past the record. A rejection is final: when the log is read again,
//! the projector skips these records ([`find_rejected`]).

use std::collections::BTreeSet;

use kafka::Record;
use schemas::native::{Unreadable, organization_named_by};
use schemas::position::LogPosition;
use schemas::topics::TopicNames;
use schemas::unix_time::{from_millis, to_millis};
use sqlx::postgres::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::columns::column;

/// Error class of a record whose row PostgreSQL refuses.
pub(crate) const REFUSED_BY_DATABASE: &str = "refused_by_database";

pub(crate) struct RejectedRow<'a> {
    /// The organization that sees the row, if it exists.
    org_id: Option<Uuid>,
    record: &'a Record,
    log_epoch: i32,
    class: &'static str,
    message: String,
}

impl<'a> RejectedRow<'a> {
    /// `None` if no row is needed: an unreadable ack or attempt may be readable later, and tenants do not write
    /// attempts.
    pub(crate) fn of(record: &'a Record, reason: &Unreadable, log_epoch: i32, topics: &TopicNames) -> Option<Self> {
        // In any form: the tenant shall see that the form is wrong.
        let org_id = organization_named_by(record.key.as_deref()).map(|org| org.as_uuid());
        let needs_row = *record.topic == *topics.events || (*record.topic == *topics.acks && org_id.is_some());
        needs_row.then(|| Self { org_id, record, log_epoch, class: reason.class, message: message_for_tenant(reason) })
    }
}

impl RejectedRow<'_> {
    /// Append time of the record. A time that is no append time becomes the time of the rejection, by which the row is
    /// listed and deleted.
    fn appended_at(&self) -> OffsetDateTime {
        let now = OffsetDateTime::now_utc();
        let is_time = self.record.check_time(to_millis(now)).is_ok();
        if is_time { from_millis(self.record.timestamp_ms.max(0)) } else { now }
    }
}

/// The reason without database errors and without the id of another organization.
fn message_for_tenant(reason: &Unreadable) -> String {
    match reason.class {
        REFUSED_BY_DATABASE => "the record holds something that cannot be stored".to_owned(),
        "organization_mismatch" => "the value names another organization than the key".to_owned(),
        // PostgreSQL accepts every other character.
        _ => reason.message.replace('\0', "\u{fffd}"),
    }
}

/// Writes the rows. A row of an unknown organization gets no org_id. An existing row stays as it is.
pub(crate) async fn insert(connection: &mut PgConnection, rows: &[RejectedRow<'_>]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO rejected (org_id, log_topic, log_partition, log_epoch, log_offset, appended_at, error_class,
                               message)
         SELECT o.id, log_topic, log_partition, log_epoch, log_offset, appended_at, error_class, message
         FROM UNNEST($1::uuid[], $2::text[], $3::integer[], $4::integer[], $5::bigint[], $6::timestamptz[], $7::text[],
                     $8::text[])
              AS t (org_id, log_topic, log_partition, log_epoch, log_offset, appended_at, error_class, message)
         LEFT JOIN contract.organizations o ON o.id = t.org_id AND o.status = 'active'
         ORDER BY log_topic, log_partition, log_epoch, log_offset
         ON CONFLICT DO NOTHING",
    )
    .bind(column(rows, |row| row.org_id))
    .bind(column(rows, |row| &*row.record.topic))
    .bind(column(rows, |row| row.record.partition))
    .bind(column(rows, |row| row.log_epoch))
    .bind(column(rows, |row| row.record.offset))
    .bind(column(rows, |row| row.appended_at()))
    .bind(column(rows, |row| row.class))
    .bind(column(rows, |row| row.message.as_str()))
    .execute(connection)
    .await?;
    Ok(())
}

/// Those of these positions of a topic that were rejected when the projector read them first.
pub(crate) async fn find_rejected(
    pool: &PgPool,
    topic: &str,
    positions: &[LogPosition],
) -> Result<BTreeSet<LogPosition>, sqlx::Error> {
    let found: Vec<(i32, i32, i64)> = sqlx::query_as(
        "SELECT log_epoch, log_partition, log_offset FROM UNNEST($2::integer[], $3::integer[], $4::bigint[])
                AS asked (log_epoch, log_partition, log_offset)
         WHERE EXISTS (SELECT FROM rejected r WHERE r.log_topic = $1 AND r.log_partition = asked.log_partition
                       AND r.log_epoch = asked.log_epoch AND r.log_offset = asked.log_offset)",
    )
    .bind(topic)
    .bind(column(positions, |position| position.log_epoch))
    .bind(column(positions, |position| position.partition))
    .bind(column(positions, |position| position.offset))
    .fetch_all(pool)
    .await?;
    let position = |(log_epoch, partition, offset)| LogPosition { log_epoch, partition, offset };
    Ok(found.into_iter().map(position).collect())
}

/// Deletes up to 1000 rows that are older than 30 days (dead letters are kept as long) and below the retention floor,
/// where their records are not read again. Returns the number of deleted rows.
pub(crate) async fn sweep(pool: &PgPool) -> Result<u64, sqlx::Error> {
    // An array: a nested loop may read a subquery several times, each time beyond the rows deleted already.
    let swept = sqlx::query(
        "DELETE FROM rejected WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM rejected
             WHERE appended_at < LEAST(now() - interval '30 days', (SELECT floor FROM retention_floor))
             LIMIT 1000 FOR UPDATE SKIP LOCKED))",
    );
    Ok(swept.execute(pool).await?.rows_affected())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use schemas::ids::OrgId;

    use super::*;

    fn record(topic: &str, key: Option<&str>) -> Record {
        Record {
            topic: Arc::from(topic),
            partition: 1,
            offset: 2,
            timestamp_ms: 3,
            key: key.map(|key| key.as_bytes().to_vec()),
            value: None,
            headers: Vec::new(),
            is_marker: false,
            has_producers_time: false,
        }
    }

    fn reason(class: &'static str) -> Unreadable {
        Unreadable { class, message: "SELECT 0192\0".to_owned() }
    }

    #[test]
    fn rejected_events_get_a_row_and_tenants_see_their_own() {
        let topics = TopicNames::with_prefix("p.");
        let org = OrgId::generate();
        let org_of = |topic: &str, key: Option<&str>| {
            RejectedRow::of(&record(topic, key), &reason("malformed"), 1, &topics).map(|row| row.org_id)
        };
        let key = org.to_string();
        assert_eq!(org_of(&topics.events, Some(&key)), Some(Some(org.as_uuid())));
        assert_eq!(org_of(&topics.acks, Some(&key)), Some(Some(org.as_uuid())));
        assert_eq!((org_of(&topics.events, Some("shop")), org_of(&topics.events, None)), (Some(None), Some(None)));
        assert_eq!((org_of(&topics.deliveries, Some(&key)), org_of(&topics.acks, None)), (None, None));
    }

    #[test]
    fn tenant_sees_no_internals_and_no_other_tenant() {
        for class in [REFUSED_BY_DATABASE, "organization_mismatch"] {
            assert!(!message_for_tenant(&reason(class)).contains("0192"));
        }
        assert_eq!(message_for_tenant(&reason("malformed")), "SELECT 0192\u{fffd}");
    }
}
