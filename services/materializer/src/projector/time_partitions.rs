//! The time partitions of the view: whether there is one for a record, and which records are below the retention floor.
//! `retention` makes them ahead and drops old ones.

use std::sync::{Mutex, PoisonError};

use schemas::unix_time::{from_millis, to_millis};
use sqlx::postgres::PgPool;

use super::generation::Generation;

/// Days (UTC) that one time partition holds, for a view that keeps so many days. A read of the inbox looks into every
/// partition, and a partition is dropped whole: six or so are few to look into, and keep expired events for no longer
/// than another sixth.
pub(crate) fn partition_days(retention_days: u32) -> i32 {
    i32::try_from((retention_days / 6).max(1)).unwrap_or(i32::MAX)
}

/// The time partitions of one generation, as last read.
pub(crate) struct TimePartitions {
    pool: PgPool,
    generation: Generation,
    days: i32,
    known: Mutex<Option<Known>>,
}

/// Milliseconds since the Unix epoch throughout.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Start and end of each.
    spans: Vec<(i64, i64)>,
    floor_ms: i64,
}

impl Known {
    fn has_room(&self, at_ms: i64) -> bool {
        at_ms < self.floor_ms || self.spans.iter().any(|(starts, ends)| (*starts..*ends).contains(&at_ms))
    }
}

impl TimePartitions {
    pub(crate) fn new(pool: PgPool, generation: Generation, retention_days: u32) -> Self {
        Self { pool, generation, days: partition_days(retention_days), known: Mutex::new(None) }
    }

    /// Makes time partitions for records of these append times, where there is none, and returns the retention floor:
    /// older records are to be skipped.
    pub(crate) async fn make_room(&self, times_ms: impl Iterator<Item = i64> + Clone) -> Result<i64, sqlx::Error> {
        // As the rows are written: a record may have any number for a time.
        let times_ms = times_ms.map(|at_ms| to_millis(from_millis(at_ms)));
        loop {
            let known = match self.last_read() {
                Some(known) => known,
                None => self.read().await?,
            };
            let Some(missing) = times_ms.clone().find(|at_ms| !known.has_room(*at_ms)) else {
                return Ok(known.floor_ms);
            };
            sqlx::query("SELECT view_ensure_time_partition($1, $2, $3)")
                .bind(self.generation.schema())
                .bind(from_millis(missing))
                .bind(self.days)
                .execute(&self.pool)
                .await?;
            self.forget();
        }
    }

    /// Has the time partitions be read again.
    pub(crate) fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn last_read(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read(&self) -> Result<Known, sqlx::Error> {
        let mut transaction = self.pool.begin_with(self.generation.begin()).await?;
        // The floor first: a partition that is dropped in between is then missing. Numbers, because a partition may end
        // after the last time that the calendar here has.
        let floor: Option<i64> = sqlx::query_scalar(
            "SELECT CASE WHEN isfinite(floor) THEN (extract(epoch FROM floor) * 1000)::bigint END FROM retention_floor",
        )
        .fetch_one(&mut *transaction)
        .await?;
        let spans: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT (extract(epoch FROM starts_at) * 1000)::bigint, (extract(epoch FROM ends_at) * 1000)::bigint
             FROM time_partitions",
        )
        .fetch_all(&mut *transaction)
        .await?;
        transaction.rollback().await?;
        let known = Known { spans, floor_ms: floor.unwrap_or(i64::MIN) };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
        Ok(known)
    }
}

/// Whether PostgreSQL had no time partition for a row: it was dropped since they were last read.
pub(crate) fn is_missing(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else { return false };
    // A row that breaks a constraint has the same code, and names the constraint.
    database.code().as_deref() == Some("23514") && database.constraint().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_of_thirty_days_has_parts_of_five() {
        assert_eq!([0, 1, 6, 11, 12, 30, 365].map(partition_days), [1, 1, 1, 1, 2, 5, 60]);
    }

    #[test]
    fn there_is_room_within_a_part_and_no_need_of_it_below_the_floor() {
        let known = Known { spans: vec![(10, 20), (30, 40)], floor_ms: 10 };
        assert_eq!(
            [9, 10, 19, 20, 29, 30, 40].map(|at| known.has_room(at)),
            [true, true, true, false, false, true, false]
        );
    }
}
