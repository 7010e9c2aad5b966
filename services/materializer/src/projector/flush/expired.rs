//! Events that were below the retention floor at their first reading. They never come into the view. The inbox reports
//! a retention gap to a reader whose cursor is before them.

use std::collections::BTreeMap;

use kafka::Record;
use schemas::ids::OrgId;
use schemas::unix_time::from_millis;
use sqlx::postgres::PgConnection;

use crate::columns::column;

/// The newest expired event of each organization and partition.
#[derive(Default)]
pub(super) struct NewestExpired<'a>(BTreeMap<(OrgId, i32), (i32, &'a Record)>);

impl<'a> NewestExpired<'a> {
    /// Records of one partition must come in offset order.
    pub(super) fn add(&mut self, org: OrgId, log_epoch: i32, record: &'a Record) {
        self.0.insert((org, record.partition), (log_epoch, record));
    }
}

/// Stores them as retention gaps.
pub(super) async fn record_gaps(connection: &mut PgConnection, newest: &NewestExpired<'_>) -> Result<(), sqlx::Error> {
    if newest.0.is_empty() {
        return Ok(());
    }
    let newest: Vec<_> = newest.0.iter().collect();
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
