//! The bare loop of the view: rows for the product's own table from memory, without a log, on one connection.

use std::time::{Duration, Instant};

use anyhow::Result;
use loadkit::{EVENT_TYPE, order};
use runtime::postgres::connect_options;
use serde::Serialize;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::rows::{self, Row, Rows};
use crate::process_usage::{Component, CpuMeter, listener};
use crate::target::port_of;

/// Rows of one transaction.
const ROWS: usize = 1_000;
/// Name of the topic in the positions.
const TOPIC: &str = "bench bare upsert";

/// The figures of one run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Upserts {
    pub rows_per_second: f64,
    /// CPU of PostgreSQL, microseconds for each row.
    pub postgres_us: f64,
}

/// Writes rows with payloads of `payload_bytes` for `duration`.
pub(crate) async fn run(
    database_url: &str,
    organizations: usize,
    payload_bytes: usize,
    duration: Duration,
) -> Result<Upserts> {
    let options = connect_options(database_url)?.disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await?;
    rows::ensure_time_partition(&mut connection).await?;
    let payload = order(0, payload_bytes);
    let postgres = port_of(database_url).and_then(listener).map(|pid| Component::new("postgres", pid));
    let meter = CpuMeter::start(postgres.as_slice());
    let started = Instant::now();
    let (mut written, mut batch) = (0_u64, Rows::default());
    while started.elapsed() < duration {
        batch.clear();
        for row in written..written + ROWS as u64 {
            batch.push(&Row {
                org_id: Uuid::from_u128(u128::from(row) % organizations.max(1) as u128),
                event_id: Uuid::now_v7(),
                partition: (row % 12) as i32,
                offset: (row / 12) as i64,
                at: OffsetDateTime::now_utc(),
                event_type: EVENT_TYPE,
                payload: &payload,
            });
        }
        batch.write(&mut connection, TOPIC).await?;
        written += ROWS as u64;
    }
    let rows_per_second = written as f64 / started.elapsed().as_secs_f64();
    let postgres_us = meter.micros_per_event(written).get("postgres").copied().unwrap_or(f64::NAN);
    Ok(Upserts { rows_per_second, postgres_us })
}
