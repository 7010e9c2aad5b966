//! Events that were past their retention when they were read first: nobody sees them any more, so whose cursor lies
//! before them is told of a gap, as of what was dropped from the view.

use std::collections::BTreeMap;

use platform::kafka::Record;
use schemas::ids::OrgId;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

/// The newest such event of each organization and partition.
#[derive(Default)]
pub(super) struct Newest<'a>(BTreeMap<(OrgId, i32), (i32, &'a Record)>);

impl<'a> Newest<'a> {
    /// Records of one partition come in their order.
    pub(super) fn note(&mut self, org: OrgId, log_epoch: i32, record: &'a Record) {
        self.0.insert((org, record.partition), (log_epoch, record));
    }
}

/// Notes them beside what was dropped.
pub(super) async fn note(connection: &mut PgConnection, newest: &Newest<'_>) -> Result<(), sqlx::Error> {
    if newest.0.is_empty() {
        return Ok(());
    }
    let column = |f: fn(&(i32, &Record)) -> i64| newest.0.values().map(f).collect::<Vec<i64>>();
    sqlx::query(
        "INSERT INTO view_dropped AS d (org_id, log_partition, log_epoch, log_offset, accepted_at)
         SELECT org_id, log_partition, log_epoch, log_offset, 'epoch'::timestamptz + accepted_ms * interval '1 millisecond'
         FROM UNNEST($1::uuid[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[])
              AS t (org_id, log_partition, log_epoch, log_offset, accepted_ms)
         ON CONFLICT (org_id, log_partition) DO UPDATE
            SET log_epoch = EXCLUDED.log_epoch, log_offset = EXCLUDED.log_offset, accepted_at = EXCLUDED.accepted_at
            WHERE (d.log_epoch, d.log_offset) < (EXCLUDED.log_epoch, EXCLUDED.log_offset)",
    )
    .bind(newest.0.keys().map(|(org, _)| org.as_uuid()).collect::<Vec<Uuid>>())
    .bind(newest.0.keys().map(|(_, partition)| *partition).collect::<Vec<i32>>())
    .bind(column(|(log_epoch, _)| i64::from(*log_epoch)))
    .bind(column(|(_, record)| record.offset))
    .bind(column(|(_, record)| record.timestamp_ms))
    .execute(connection)
    .await?;
    Ok(())
}
