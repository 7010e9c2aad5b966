//! Rows of `rejected`: which places of the log were refused, and what of it a tenant may know. Written in the
//! transaction that moves the position past the record. A decision: whoever reads the log again passes over what was
//! refused ([`refused`]).

use std::collections::BTreeSet;

use platform::kafka::Record;
use schemas::ids::OrgId;
use schemas::native::Unreadable;
use schemas::position::Place as LogPosition;
use schemas::topics::TopicNames;
use schemas::unix_time::from_millis;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

/// Class of the dead letter that a row becomes which PostgreSQL refuses.
pub(crate) const REFUSED_BY_DATABASE: &str = "refused_by_database";

pub(crate) struct Row<'a> {
    /// Whose tenants are told of it, when there is such an organization.
    org_id: Option<Uuid>,
    record: &'a Record,
    log_epoch: i32,
    class: &'static str,
    message: String,
}

impl<'a> Row<'a> {
    /// `None` where nothing is to be remembered: an ack or attempt that nobody could read may be read later, and no
    /// tenant writes attempts.
    pub(crate) fn of(record: &'a Record, reason: &Unreadable, log_epoch: i32, topics: &TopicNames) -> Option<Self> {
        let org_id = record
            .key
            .as_deref()
            .and_then(|key| std::str::from_utf8(key).ok()?.parse::<OrgId>().ok())
            .map(|org| org.as_uuid());
        let is_remembered = *record.topic == *topics.events || (*record.topic == *topics.acks && org_id.is_some());
        is_remembered.then(|| Self { org_id, record, log_epoch, class: reason.class, message: told(reason) })
    }
}

/// The reason as a tenant may read it: nothing of the database, and not which other organization is named.
fn told(reason: &Unreadable) -> String {
    match reason.class {
        REFUSED_BY_DATABASE => "the record holds something that cannot be stored".to_owned(),
        "organization_mismatch" => "the value names another organization than the key".to_owned(),
        // PostgreSQL takes every other character.
        _ => reason.message.replace('\0', "\u{fffd}"),
    }
}

/// Writes the rows; those of an organization that does not exist without its name. A row that is there already stays as
/// it is.
pub(crate) async fn insert(connection: &mut PgConnection, rows: &[Row<'_>]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO rejected (org_id, log_topic, log_partition, log_epoch, log_offset, appended_at, error_class, message)
         SELECT o.id, log_topic, log_partition, log_epoch, log_offset, appended_at, error_class, message
         FROM UNNEST($1::uuid[], $2::text[], $3::integer[], $4::integer[], $5::bigint[], $6::timestamptz[], $7::text[],
                     $8::text[])
              AS t (org_id, log_topic, log_partition, log_epoch, log_offset, appended_at, error_class, message)
         LEFT JOIN contract.organizations o ON o.id = t.org_id AND o.status = 'active'
         ORDER BY log_topic, log_partition, log_epoch, log_offset
         ON CONFLICT DO NOTHING",
    )
    .bind(rows.iter().map(|row| row.org_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| &*row.record.topic).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.record.partition).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.log_epoch).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.record.offset).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| from_millis(row.record.timestamp_ms.max(0))).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.class).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.message.as_str()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Which of these positions of a topic were refused when they were read first.
pub(crate) async fn refused(
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
    .bind(positions.iter().map(|position| position.log_epoch).collect::<Vec<i32>>())
    .bind(positions.iter().map(|position| position.partition).collect::<Vec<i32>>())
    .bind(positions.iter().map(|position| position.offset).collect::<Vec<i64>>())
    .fetch_all(pool)
    .await?;
    let position = |(log_epoch, partition, offset)| LogPosition { log_epoch, partition, offset };
    Ok(found.into_iter().map(position).collect())
}

/// Takes away up to 1000 rows that are older than 30 days, as long as the dead letters themselves are kept, and below
/// the floor, where no reading of the log takes their records. Answers how many.
pub(crate) async fn sweep(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let swept = sqlx::query(
        "DELETE FROM rejected WHERE ctid IN (
             SELECT ctid FROM rejected
             WHERE appended_at < LEAST(now() - interval '30 days', (SELECT floor FROM retention_floor))
             LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    );
    Ok(swept.execute(pool).await?.rows_affected())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        }
    }

    fn reason(class: &'static str) -> Unreadable {
        Unreadable { class, message: "SELECT 0192\0".to_owned() }
    }

    #[test]
    fn a_refused_event_is_remembered_and_a_tenant_is_told_of_what_has_its_key_on_the_topics_that_tenants_write() {
        let topics = TopicNames::with_prefix("p.");
        let org = OrgId::generate();
        let told = |topic: &str, key: Option<&str>| {
            Row::of(&record(topic, key), &reason("malformed"), 1, &topics).map(|row| row.org_id)
        };
        let key = org.to_string();
        assert_eq!(told(&topics.events, Some(&key)), Some(Some(org.as_uuid())));
        assert_eq!(told(&topics.acks, Some(&key)), Some(Some(org.as_uuid())));
        assert_eq!((told(&topics.events, Some("shop")), told(&topics.events, None)), (Some(None), Some(None)));
        assert_eq!((told(&topics.deliveries, Some(&key)), told(&topics.acks, None)), (None, None));
    }

    #[test]
    fn a_tenant_is_told_nothing_of_the_inside_and_of_no_other_tenant() {
        for class in [REFUSED_BY_DATABASE, "organization_mismatch"] {
            assert!(!told(&reason(class)).contains("0192"));
        }
        assert_eq!(told(&reason("malformed")), "SELECT 0192\u{fffd}");
    }
}
