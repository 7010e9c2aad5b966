//! Events that were past their retention when they were read first. They never come into the view, so a reader whose
//! cursor is before them is told of a retention gap.

use std::collections::BTreeMap;

use platform::kafka::Record;
use schemas::ids::OrgId;
use schemas::unix_time::from_millis;
use sqlx::postgres::PgConnection;

use super::column;

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
    let newest: Vec<(&(OrgId, i32), &(i32, &Record))> = newest.0.iter().collect();
    sqlx::query("SELECT view_record_gaps($1, $2, $3, $4, $5)")
        .bind(column(&newest, |((org, _), _)| org.as_uuid()))
        .bind(column(&newest, |((_, partition), _)| *partition))
        .bind(column(&newest, |(_, (log_epoch, _))| *log_epoch))
        .bind(column(&newest, |(_, (_, record))| record.offset))
        .bind(column(&newest, |(_, (_, record))| from_millis(record.timestamp_ms)))
        .execute(connection)
        .await?;
    Ok(())
}
