//! The time partitions of the view: whether one exists for a record, and which records are below the retention floor.
//! `retention` creates them ahead and drops expired ones.

use std::sync::{Mutex, PoisonError};

use schemas::unix_time::{from_millis, to_millis};
use sqlx::postgres::PgPool;

use super::generation::Generation;

/// Days (UTC) of one time partition, for a view that keeps `retention_days`. A read of the inbox searches every time
/// partition, and a time partition is dropped with all its events. About six are few to search, and keep expired events
/// for at most another sixth of the retention.
pub(crate) fn partition_days(retention_days: u32) -> i32 {
    i32::try_from((retention_days / 6).max(1)).unwrap_or(i32::MAX)
}

/// The time partitions of one generation, cached.
pub(crate) struct TimePartitions {
    pool: PgPool,
    generation: Generation,
    days: i32,
    cached: Mutex<Option<Spans>>,
}

/// Milliseconds since the Unix epoch throughout.
#[derive(Debug, Clone, Default)]
struct Spans {
    /// Start and end of each time partition.
    spans: Vec<(i64, i64)>,
    floor_ms: i64,
}

impl Spans {
    /// A row of this time needs no new time partition.
    fn covers(&self, at_ms: i64) -> bool {
        at_ms < self.floor_ms || self.spans.iter().any(|(starts, ends)| (*starts..*ends).contains(&at_ms))
    }
}

impl TimePartitions {
    pub(crate) fn new(pool: PgPool, generation: Generation, retention_days: u32) -> Self {
        Self { pool, generation, days: partition_days(retention_days), cached: Mutex::new(None) }
    }

    /// Creates the missing time partitions for records of these append times, and returns the retention floor: the
    /// caller must skip older records.
    pub(crate) async fn ensure(&self, times_ms: impl Iterator<Item = i64> + Clone) -> Result<i64, sqlx::Error> {
        // Clamped as in the rows: the time of a record may be any number.
        let times_ms = times_ms.map(|at_ms| to_millis(from_millis(at_ms)));
        loop {
            let spans = match self.cached() {
                Some(spans) => spans,
                None => self.read().await?,
            };
            let Some(missing) = times_ms.clone().find(|at_ms| !spans.covers(*at_ms)) else {
                return Ok(spans.floor_ms);
            };
            sqlx::query("SELECT view_ensure_time_partition($1, $2, $3)")
                .bind(self.generation.schema())
                .bind(from_millis(missing))
                .bind(self.days)
                .execute(&self.pool)
                .await?;
            self.invalidate();
        }
    }

    /// Drops the cache; the time partitions are read again.
    pub(crate) fn invalidate(&self) {
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn cached(&self) -> Option<Spans> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read(&self) -> Result<Spans, sqlx::Error> {
        let mut transaction = runtime::postgres::begin_with(&self.pool, self.generation.begin()).await?;
        // The floor first: then a time partition that is dropped in between is missing from the list. Numbers, because
        // a time partition may end after the last time that `OffsetDateTime` can represent.
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
        let spans = Spans { spans, floor_ms: floor.unwrap_or(i64::MIN) };
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some(spans.clone());
        Ok(spans)
    }
}

/// Whether PostgreSQL had no time partition for a row: it was dropped since the list was cached.
pub(crate) fn is_missing(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else { return false };
    // A violated constraint has the same code; then the error names the constraint.
    database.code().as_deref() == Some("23514") && database.constraint().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_days_of_retention_make_partitions_of_five_days() {
        assert_eq!([0, 1, 6, 11, 12, 30, 365].map(partition_days), [1, 1, 1, 1, 2, 5, 60]);
    }

    #[test]
    fn a_time_below_the_floor_needs_no_partition() {
        let spans = Spans { spans: vec![(10, 20), (30, 40)], floor_ms: 10 };
        assert_eq!(
            [9, 10, 19, 20, 29, 30, 40].map(|at| spans.covers(at)),
            [true, true, true, false, false, true, false]
        );
    }
}
