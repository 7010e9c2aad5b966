//! The lag of a consumer in one partition. Pure.

/// Progress of a consumer in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitProgress {
    /// The position committed last.
    pub next_offset: i64,
    /// Append time of the first record that was read and is not committed, milliseconds since the Unix epoch.
    pub open_since_ms: Option<i64>,
    /// Append time of the last record that was committed, same unit.
    pub last_done_ms: Option<i64>,
}

/// What is not committed.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Lag {
    /// Records.
    pub records: i64,
    /// Age of the oldest of them, seconds.
    pub seconds: f64,
}

impl Lag {
    /// The lag at `now_ms` in a log that ends at `log_end`, if that is known. The age is that of the first record that
    /// was read and is not committed. If there is none, the last committed record is the second best measure: after a
    /// quiet hour it would show an hour of lag. Without either the age is 0.
    pub fn of(log_end: Option<i64>, progress: CommitProgress, now_ms: i64) -> Self {
        let records = log_end.map_or(0, |end| (end - progress.next_offset).max(0));
        let since_ms = progress.open_since_ms.or(progress.last_done_ms.filter(|_| records > 0));
        Self { records, seconds: since_ms.map_or(0.0, |since_ms| (now_ms - since_ms).max(0) as f64 / 1000.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn seconds(log_end: i64, open_since_ms: Option<i64>, last_done_ms: Option<i64>, now_ms: i64) -> f64 {
        Lag::of(Some(log_end), CommitProgress { next_offset: 1, open_since_ms, last_done_ms }, now_ms).seconds
    }

    #[test]
    fn records_are_counted_up_to_a_known_end() {
        let progress = CommitProgress { next_offset: 5, open_since_ms: None, last_done_ms: None };
        let records = |end| Lag::of(end, progress, 0).records;
        assert_eq!((records(Some(8)), records(Some(4)), records(None)), (3, 0, 0));
    }

    #[test]
    fn a_record_after_a_quiet_hour_is_no_hour_of_lag() {
        assert_eq!(seconds(2, Some(HOUR_MS), Some(0), HOUR_MS + 5), 0.005);
        assert_eq!(seconds(1, None, Some(0), HOUR_MS), 0.0, "nothing is open");
    }

    #[test]
    fn an_unread_backlog_is_as_old_as_what_was_done_before() {
        assert_eq!(seconds(11, None, Some(0), HOUR_MS), 3600.0);
        assert_eq!(seconds(11, None, None, HOUR_MS), 0.0);
    }
}
