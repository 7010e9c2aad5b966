//! Rows of `view.rejected`: what of a dead letter a tenant may know, written in the transaction that moves the position past its record.

use platform::kafka::Record;
use schemas::ids::OrgId;
use schemas::native::Unreadable;
use schemas::topics::TopicNames;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

/// Milliseconds of the last moment of the year 9999. A topic that is not as the manifest wants it may hold any time, which PostgreSQL would refuse.
const MAX_TIME_MS: i64 = 253_402_300_799_999;

/// Class of the dead letter that a row becomes which PostgreSQL refuses.
pub(crate) const REFUSED_BY_DATABASE: &str = "refused_by_database";

/// One rejected record.
pub(crate) struct Row<'a> {
    org_id: Uuid,
    record: &'a Record,
    log_epoch: i32,
    class: &'static str,
    message: String,
}

impl<'a> Row<'a> {
    /// What the tenant is told of a dead letter; `None` when its key is nobody's, or when it is on a topic that tenants do not write.
    pub(crate) fn of(record: &'a Record, reason: &Unreadable, log_epoch: i32, topics: &TopicNames) -> Option<Self> {
        let org_id: OrgId = std::str::from_utf8(record.key.as_deref()?).ok()?.parse().ok()?;
        let is_tenants = *record.topic == *topics.events || *record.topic == *topics.acks;
        is_tenants.then(|| Self { org_id: org_id.as_uuid(), record, log_epoch, class: reason.class, message: told(reason) })
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

/// Writes the rows of organizations that exist and are not erased. A row that is there already stays as it is.
pub(crate) async fn insert(connection: &mut PgConnection, rows: &[Row<'_>]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO rejected (org_id, log_topic, log_partition, log_epoch, log_offset, appended_at, error_class, message)
         SELECT t.org_id, log_topic, log_partition, log_epoch, log_offset, 'epoch'::timestamptz + appended_ms * interval '1 millisecond',
                error_class, message
         FROM UNNEST($1::uuid[], $2::text[], $3::integer[], $4::integer[], $5::bigint[], $6::bigint[], $7::text[], $8::text[])
              AS t (org_id, log_topic, log_partition, log_epoch, log_offset, appended_ms, error_class, message)
         JOIN contract.organizations o ON o.id = t.org_id AND o.status = 'active'
         ORDER BY t.org_id, log_topic, log_partition, log_epoch, log_offset
         ON CONFLICT DO NOTHING",
    )
    .bind(rows.iter().map(|row| row.org_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| &*row.record.topic).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.record.partition).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.log_epoch).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.record.offset).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.record.timestamp_ms.clamp(0, MAX_TIME_MS)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.class).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.message.as_str()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes away up to 1000 rows that are older than 30 days, as long as the dead letters themselves are kept. Answers how many.
pub(crate) async fn sweep(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let swept = sqlx::query(
        "DELETE FROM view.rejected WHERE ctid IN (
             SELECT ctid FROM view.rejected WHERE appended_at < now() - interval '30 days' LIMIT 1000 FOR UPDATE SKIP LOCKED)",
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
    fn a_tenant_is_told_of_records_under_its_own_key_on_the_topics_that_tenants_write() {
        let topics = TopicNames::with_prefix("p.");
        let org = OrgId::generate().to_string();
        let is_told = |topic: &str, key: Option<&str>| Row::of(&record(topic, key), &reason("malformed"), 1, &topics).is_some();
        assert!(is_told(&topics.events, Some(&org)) && is_told(&topics.acks, Some(&org)));
        assert!(!is_told(&topics.deliveries, Some(&org)));
        assert!(!is_told(&topics.events, Some("shop")) && !is_told(&topics.events, None));
    }

    #[test]
    fn a_tenant_is_told_nothing_of_the_inside_and_of_no_other_tenant() {
        for class in [REFUSED_BY_DATABASE, "organization_mismatch"] {
            assert!(!told(&reason(class)).contains("0192"));
        }
        assert_eq!(told(&reason("malformed")), "SELECT 0192\u{fffd}");
    }
}
