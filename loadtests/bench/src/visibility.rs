//! Measures the time until an accepted event is visible: polls the view for a sample of the accepted events.
//!
//! It polls the database and not the inbox, because the inbox waits for the events of its own instance (read your
//! writes). One connection asks for the oldest open events in one statement, so the cost grows neither with the rate
//! nor with the number of open events. The pause grows with the duration of the last poll, so that polling does not
//! slow down a view that is behind. The figure is an upper bound: it includes one poll interval, and the wait for older
//! events of the sample.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Context;
use runtime::postgres::connect_options;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::generator::Watched;
use crate::recorder::{Latency, histogram, micros};
use crate::session::Row;

/// Minimum time between two polls.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(3);
/// Time between two polls as a multiple of the last poll: polling uses less than a tenth of a core.
const PAUSE_FACTOR: u32 = 10;
/// Open events of one poll.
const POLLED: usize = 64;
/// Events that were never visible and are named.
const NAMED: usize = 5;
/// Maximum number of open events; others are dropped from the sample.
pub(crate) const MAX_OPEN: usize = 4_096;

/// The visibility of the sample.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Visibility {
    /// Time from success to visible; includes up to one poll interval.
    pub latency: Latency,
    /// Minimum time between two polls.
    pub poll_interval_ms: u64,
    /// Sampled events that were not visible at the end.
    pub never_visible: u64,
    /// Events dropped from the sample because too many were open.
    pub dropped: u64,
    /// When each event was accepted, and how long it took to be visible.
    #[serde(skip)]
    pub samples: Vec<(Instant, Duration)>,
}

impl Visibility {
    /// Fills in the time to visible of the events that were accepted in each second of `rows`, which count from
    /// `started`.
    pub(crate) fn fill(&self, started: Instant, rows: &mut [Row]) {
        let mut by_row = vec![Vec::new(); rows.len()];
        for (accepted_at, took) in &self.samples {
            let at = accepted_at.saturating_duration_since(started).as_secs_f64();
            let index = rows.partition_point(|row| row.at_seconds < at);
            if let Some(of_row) = by_row.get_mut(index) {
                of_row.push(*took);
            }
        }
        let mut latency = histogram();
        for (row, of_row) in rows.iter_mut().zip(by_row).filter(|(_, of_row)| !of_row.is_empty()) {
            latency.reset();
            of_row.into_iter().for_each(|took| latency.saturating_record(micros(took)));
            row.visible = Latency::of(&latency);
        }
    }
}

/// Polls for sampled events until the senders are gone and all are visible, or `settle` later.
pub(crate) struct Watcher {
    connection: PgConnection,
    organizations: Vec<Uuid>,
    settle: Duration,
}

impl Watcher {
    /// Connects to the view's database. `organizations`: ids by index.
    pub(crate) async fn connect(
        database_url: &str,
        organizations: Vec<Uuid>,
        settle: Duration,
    ) -> anyhow::Result<Self> {
        let options = connect_options(database_url).context("the database URL is invalid")?;
        // Forces index scans: statistics of a table that was empty a moment ago would choose a sequential scan. Their
        // estimates are so high that every poll would be compiled, for seconds.
        let options = options.application_name("bench").disable_statement_logging().options([
            ("jit", "off"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ]);
        let connection = PgConnection::connect_with(&options).await.context("connecting to the view's database")?;
        Ok(Self { connection, organizations, settle })
    }

    /// Polls for the events of `accepted` until the end.
    pub(crate) async fn run(mut self, mut accepted: mpsc::Receiver<Watched>) -> anyhow::Result<Visibility> {
        let mut latency = histogram();
        // In the order of their acceptance.
        let mut open: VecDeque<Watched> = VecDeque::new();
        let (mut dropped, mut closed_at, mut samples) = (0_u64, None, Vec::new());
        loop {
            if open.is_empty() {
                // Wait for an event.
                match accepted.recv().await {
                    Some(event) => open.push_back(event),
                    None => break,
                }
            }
            loop {
                match accepted.try_recv() {
                    Ok(event) if open.len() < MAX_OPEN => open.push_back(event),
                    Ok(_) => dropped += 1,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        closed_at.get_or_insert_with(Instant::now);
                        break;
                    }
                }
            }
            let started = Instant::now();
            let polled: Vec<Watched> = open.iter().take(POLLED).copied().collect();
            let found = self.poll(&polled).await?;
            let now = Instant::now();
            let next_poll = started + POLL_INTERVAL.max((now - started) * PAUSE_FACTOR);
            open.retain(|event| {
                let visible = found.binary_search(&event.event_id).is_ok();
                if visible {
                    let took = now.saturating_duration_since(event.accepted_at);
                    samples.push((event.accepted_at, took));
                    if event.measured {
                        latency.saturating_record(micros(took));
                    }
                }
                !visible
            });
            if closed_at.is_some_and(|closed| closed.elapsed() > self.settle) {
                break;
            }
            // If all were visible, younger ones may be too.
            if found.len() < polled.len() || open.is_empty() {
                tokio::time::sleep_until(next_poll.into()).await;
            }
        }
        self.connection.close().await.ok();
        for event in open.iter().take(NAMED) {
            eprintln!("never visible: event {} of organization {}", event.event_id, event.organization);
        }
        Ok(Visibility {
            latency: Latency::of(&latency),
            poll_interval_ms: POLL_INTERVAL.as_millis() as u64,
            never_visible: open.len() as u64,
            dropped,
            samples,
        })
    }

    /// The visible ids of `open`, sorted.
    async fn poll(&mut self, open: &[Watched]) -> anyhow::Result<Vec<Uuid>> {
        let organizations: Vec<Uuid> =
            open.iter().map(|event| self.organizations.get(event.organization).copied().unwrap_or_default()).collect();
        let ids: Vec<Uuid> = open.iter().map(|event| event.event_id).collect();
        let mut found: Vec<Uuid> = sqlx::query_scalar(
            "SELECT e.event_id FROM UNNEST($1::uuid[], $2::uuid[]) AS sampled (org_id, event_id) \
             JOIN contract.events e ON e.org_id = sampled.org_id AND e.event_id = sampled.event_id",
        )
        .bind(organizations)
        .bind(ids)
        .fetch_all(&mut self.connection)
        .await
        .context("polling the view for sampled events")?;
        found.sort_unstable();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn each_second_has_the_events_that_were_accepted_in_it() {
        let (started, mut rows) = (Instant::now(), sample::rows());
        rows.iter_mut().for_each(|row| row.visible = Latency::default());
        let sample = |at_ms, took_ms| (started + Duration::from_millis(at_ms), Duration::from_millis(took_ms));
        // The rows end a millisecond after each full second. What is accepted after the last row has none.
        let samples = vec![sample(500, 10), sample(900, 30), sample(1_500, 20), sample(60_000, 1)];
        let seen = Visibility { samples, ..sample::figures().visibility.unwrap() };
        seen.fill(started, &mut rows);
        let counts: Vec<u64> = rows.iter().take(3).map(|row| row.visible.count).collect();
        assert_eq!((counts, rows.iter().map(|row| row.visible.count).sum()), (vec![2, 1, 0], 3_u64));
        assert!((rows[0].visible.max_ms - 30.0).abs() < 0.1, "{:?}", rows[0].visible);
    }
}
