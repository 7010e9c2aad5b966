//! How long an accepted event takes to be visible: a sample of the accepted events is looked for in the view until it
//! is there.
//!
//! Through the database and not through the inbox's routes, because those wait for what their own instance accepted and
//! would show their own waiting. One connection asks for the whole open sample in one statement, so the cost does not
//! grow with the rate; and it rests in proportion to what its last look took, so that a view that falls behind is not
//! held there by being looked at. The figure is an upper bound: it includes the distance between two looks.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::generator::Watched;
use crate::recorder::{Latency, histogram, micros};

/// Distance between two looks, at least.
pub const LOOK_EVERY: Duration = Duration::from_millis(3);
/// Distance between two looks, in times of what the last one took: looking costs less than a twentieth of a core.
const REST_FACTOR: u32 = 20;
/// Most events looked for at once; beyond it the sample is thinned.
pub const MAX_OPEN: usize = 4_096;

/// What the sample showed.
#[derive(Debug, Clone, Serialize)]
pub struct Visibility {
    /// From the success to being visible; includes up to one distance between two looks.
    pub latency: Latency,
    /// Distance between two looks, at least.
    pub look_every_ms: u64,
    /// Sampled events that were not seen by the end.
    pub never_seen: u64,
    /// Sampled events given up because too many were open.
    pub not_looked_for: u64,
}

/// Looks for sampled events until the senders are gone and all were seen, or `settle` later.
pub struct Watcher {
    connection: PgConnection,
    organizations: Vec<Uuid>,
    settle: Duration,
}

impl Watcher {
    /// Connects to the view's database. `organizations`: ids by index.
    pub async fn connect(database_url: &str, organizations: Vec<Uuid>, settle: Duration) -> anyhow::Result<Self> {
        let options: PgConnectOptions = database_url.parse().context("the database URL cannot be read")?;
        // A handful of keys is always looked up by index: statistics of a table that was empty a moment ago must not
        // say otherwise.
        let options = options.application_name("loadtests").disable_statement_logging().options([
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ]);
        let connection = PgConnection::connect_with(&options).await.context("connecting to the view's database")?;
        Ok(Self { connection, organizations, settle })
    }

    /// Watches what comes in, to the end.
    pub async fn run(mut self, mut accepted: mpsc::Receiver<Watched>) -> anyhow::Result<Visibility> {
        let mut latency = histogram();
        let mut open: Vec<Watched> = Vec::new();
        let (mut not_looked_for, mut closed_at) = (0_u64, None);
        loop {
            if open.is_empty() {
                // Nothing to look for: sleep until there is.
                match accepted.recv().await {
                    Some(event) => open.push(event),
                    None => break,
                }
            }
            loop {
                match accepted.try_recv() {
                    Ok(event) if open.len() < MAX_OPEN => open.push(event),
                    Ok(_) => not_looked_for += 1,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        closed_at.get_or_insert_with(Instant::now);
                        break;
                    }
                }
            }
            let began = Instant::now();
            let found = self.look(&open).await?;
            let now = Instant::now();
            let look_at = began + LOOK_EVERY.max((now - began) * REST_FACTOR);
            open.retain(|event| {
                let visible = found.binary_search(&event.event_id).is_ok();
                if visible && event.measured {
                    latency.saturating_record(micros(now.saturating_duration_since(event.accepted_at)));
                }
                !visible
            });
            if closed_at.is_some_and(|closed| closed.elapsed() > self.settle) {
                break;
            }
            tokio::time::sleep_until(look_at.into()).await;
        }
        self.connection.close().await.ok();
        Ok(Visibility {
            latency: Latency::of(&latency),
            look_every_ms: LOOK_EVERY.as_millis() as u64,
            never_seen: open.len() as u64,
            not_looked_for,
        })
    }

    /// Which of `open` are visible, sorted.
    async fn look(&mut self, open: &[Watched]) -> anyhow::Result<Vec<Uuid>> {
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
        .context("looking for sampled events in the view")?;
        found.sort_unstable();
        Ok(found)
    }
}
