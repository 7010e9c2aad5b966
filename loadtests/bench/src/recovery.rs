//! S6: how long after a spike the latency is low again. Pure.

use std::time::Duration;

use crate::session::Row;

/// Seconds from `spike_ends` until p95 stays below `p95_ms` for the rest of the run; none if it never does.
pub(crate) fn seconds_until_fast(rows: &[Row], spike_ends: Duration, p95_ms: f64) -> Option<f64> {
    let ends = spike_ends.as_secs_f64();
    let after = || rows.iter().filter(|row| row.at_seconds > ends);
    // A second in which requests were sent and none was answered is slow too.
    let slow = |row: &&Row| row.latency.p95_ms >= p95_ms || row.latency.count == 0 && row.sent > 0;
    let last_slow = after().rfind(slow).map_or(ends, |row| row.at_seconds);
    after().any(|row| row.at_seconds > last_slow).then_some(last_slow - ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Latency;
    use crate::sample;

    fn rows(p95_by_second: &[f64]) -> Vec<Row> {
        let template = sample::rows().into_iter().next().unwrap();
        let row = |(second, p95_ms): (usize, &f64)| {
            let mut row = Row { at_seconds: (second + 1) as f64, ..template.clone() };
            (row.latency.p95_ms, row.latency.count) = (*p95_ms, 100);
            row
        };
        p95_by_second.iter().enumerate().map(row).collect()
    }

    #[test]
    fn the_last_slow_second_counts() {
        let ends = Duration::from_secs(2);
        let of = |p95_by_second: &[f64]| seconds_until_fast(&rows(p95_by_second), ends, 15.0);
        assert_eq!(of(&[5.0, 900.0, 5.0, 5.0]), Some(0.0), "the spike itself does not count");
        assert_eq!(of(&[5.0, 900.0, 400.0, 5.0, 20.0, 5.0]), Some(3.0));
        assert_eq!(of(&[5.0, 900.0, 400.0, 5.0, 20.0]), None, "it ends slow");
        let mut unanswered = rows(&[5.0, 900.0, 5.0, 5.0, 5.0]);
        unanswered[3].latency = Latency::default();
        assert_eq!(seconds_until_fast(&unanswered, ends, 15.0), Some(2.0), "a second without answers is slow");
        unanswered[3].sent = 0;
        assert_eq!(seconds_until_fast(&unanswered, ends, 15.0), Some(0.0), "nothing was sent");
    }
}
