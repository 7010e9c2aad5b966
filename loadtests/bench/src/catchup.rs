//! S8: how fast the materializer writes a log that waits for it, beside the bare loop that writes rows from memory.

use std::time::{Duration, Instant};

use anyhow::Context;
use loadkit::{Failure, Role};
use serde::Serialize;

use crate::bare::upsert::{self, Upserts};
use crate::eventually::eventually;
use crate::lag::LagReader;
use crate::process_usage::CpuMeter;
use crate::product::{self, Counted};
use crate::scenario::{Load, Pace, Thresholds};
use crate::schedule::Schedule;
use crate::system::System;

/// Events of one request while the log is filled, and requests a second.
const BATCH_EVENTS: usize = 100;
const BATCHES_PER_SECOND: u64 = 800;
/// How long the bare loop runs.
const BARE_FOR: Duration = Duration::from_secs(10);
/// The materializer must have written everything within this time.
const DEADLINE: Duration = Duration::from_secs(900);
/// Between two looks whether it has begun.
const FIRST_LOOKS: Duration = Duration::from_millis(5);

/// One catch-up.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CatchUp {
    pub records: u64,
    /// From the first record that was written to the last.
    pub rows_per_second: f64,
    /// CPU, microseconds for each record.
    pub cpu_us: std::collections::BTreeMap<String, f64>,
    pub bare: Upserts,
}

/// Fills the log with about `records` events while no materializer runs, starts one, and waits until it has written all
/// of them. `load` has the payload and the organizations.
pub(crate) async fn run(system: &mut System, load: &Load, records: u64) -> Result<CatchUp, Failure> {
    system.keep_only(&[Role::Ingest]).await?;
    system.run(&[Role::Ingest]).await?;
    let hold = Duration::from_secs((records / (BATCHES_PER_SECOND * BATCH_EVENTS as u64)).max(1));
    let pace = Pace::Open(Schedule::new(BATCHES_PER_SECOND, Duration::ZERO, hold));
    let filling = Load { pace, measured: hold, connections: 64, batch_events: BATCH_EVENTS, ..*load };
    let options = product::Options {
        name: "catch-up: filling the log".to_owned(),
        thresholds: Thresholds::none(),
        limit_per_minute: 0,
        settle: Duration::ZERO,
        components: system.components(),
        counted: Counted::Log,
    };
    let filled = product::run(&system.target, filling, &options).await?;
    if !filled.passed {
        return Err(anyhow::anyhow!("filling the log failed: {}", crate::report::summary(&filled)).into());
    }
    system.keep_only(&[]).await?;
    let caught_up = catch_up(system).await?;
    let database_url = system.target.database_url.clone().unwrap_or_default();
    let bare = upsert::run(&database_url, load.organizations, load.payload_bytes.median(), BARE_FOR).await?;
    Ok(CatchUp { bare, ..caught_up })
}

async fn catch_up(system: &mut System) -> anyhow::Result<CatchUp> {
    let lag = LagReader::of(&system.target, Role::Materializer).await?;
    let mut lag = lag.context("the system has no broker or no database")?;
    let waiting = lag.records().await?;
    system.run(&[Role::Materializer]).await?;
    let meter = CpuMeter::start(&system.components());
    let first = eventually(FIRST_LOOKS, DEADLINE, "the materializer writes", async || {
        Ok(Some(lag.records().await?).filter(|left| *left < waiting))
    });
    let (first, started) = (first.await?, Instant::now());
    lag.wait_until_applied(DEADLINE).await?;
    let rows_per_second = first as f64 / started.elapsed().as_secs_f64();
    let cpu_us = meter.micros_per_event(waiting);
    system.keep_only(&[]).await.context("stopping the materializer")?;
    let bare = Upserts { rows_per_second: f64::NAN, postgres_us: f64::NAN };
    Ok(CatchUp { records: waiting, rows_per_second, cpu_us, bare })
}
