//! Waits, always with a timeout: until the system has recovered, until no consumer has lag, until all deliveries are
//! finished.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use sqlx::{PgPool, Row};
use uuid::Uuid;

use crate::check::Violation;
use crate::ledger::Ledger;
use crate::load::{RoundContext, probe_all};
use crate::offsets::{EndOffsets, first_lag};
use crate::system::System;

const POLL: Duration = Duration::from_millis(100);

/// Waits until the system has recovered from a fault that was undone at `since`: accepted events are shown and
/// consumed, and each kind of request and each instance of `ingest` works again. Returns the seconds that this took.
///
/// # Errors
/// What did not recover in time, as a sentence.
pub(crate) async fn wait_for_recovery(
    system: &System,
    context: &RoundContext,
    since: Instant,
    timeout: Duration,
) -> Result<f64, String> {
    let (caught_up, probed) = tokio::join!(
        wait_for_load(system, context, since, timeout),
        probe_all(context, system.fleet.base_urls(), since, timeout)
    );
    Ok(caught_up?.max(probed?))
}

/// Waits until the tails have shown what was accepted, all consumers have reached the current end of the log, and
/// requests that were started after `since` are accepted.
async fn wait_for_load(
    system: &System,
    context: &RoundContext,
    since: Instant,
    timeout: Duration,
) -> Result<f64, String> {
    let tags = context.ledger.accepted_tags();
    let mut ends = None;
    let mut missing = None;
    while since.elapsed() < timeout {
        if ends.is_none() {
            ends = system.end_offsets().await.ok();
        }
        missing = ends.is_none().then(|| "Kafka does not answer for the end offsets".to_owned());
        if missing.is_none() {
            missing = first_unseen(&context.ledger, &tags).or_else(|| context.not_accepted_since(since));
        }
        if let (None, Some(ends)) = (&missing, &ends) {
            missing = first_lag(&system.pool, &system.topics, ends)
                .await
                .unwrap_or_else(|error| Some(format!("PostgreSQL: {error}")));
        }
        if missing.is_none() {
            return Ok(since.elapsed().as_secs_f64());
        }
        tokio::time::sleep(POLL).await;
    }
    Err(format!("within {} s: {}", timeout.as_secs(), missing.unwrap_or_default()))
}

/// An accepted event that no tail has shown yet.
fn first_unseen(ledger: &Ledger, tags: &[(usize, String)]) -> Option<String> {
    let mut seen: HashMap<usize, HashSet<String>> = HashMap::new();
    for (tenant, _) in tags {
        seen.entry(*tenant).or_insert_with(|| ledger.tail(*tenant).into_iter().map(|shown| shown.tag).collect());
    }
    let missing = tags.iter().find(|(tenant, tag)| seen.get(tenant).is_some_and(|seen| !seen.contains(tag)));
    missing.map(|(_, tag)| format!("{tag} was accepted and is not shown"))
}

/// Waits until no consumer has lag while nothing is written. Returns the end offsets of the log; adds a violation if a
/// consumer does not catch up in time.
pub(crate) async fn wait_for_consumers(
    system: &System,
    timeout: Duration,
    found: &mut Vec<Violation>,
) -> anyhow::Result<EndOffsets> {
    let started = Instant::now();
    loop {
        let ends = system.end_offsets().await;
        let lag = match &ends {
            Ok(ends) => first_lag(&system.pool, &system.topics, ends)
                .await
                .unwrap_or_else(|error| Some(format!("PostgreSQL: {error}"))),
            Err(error) => Some(format!("{error:#}")),
        };
        match (ends, lag) {
            (Ok(ends), None) => return Ok(ends),
            (ends, Some(lag)) if started.elapsed() > timeout => {
                found.push(Violation::new("not-settled", format!("within {} s: {lag}", timeout.as_secs())));
                return ends;
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// Waits until all deliveries of these organizations are finished. Repeated deliveries come when a lease expires, which
/// takes longer than first deliveries. Returns a violation if they do not finish in time.
pub(crate) async fn wait_for_deliveries(system: &System, orgs: &[Uuid], timeout: Duration) -> Option<Violation> {
    let started = Instant::now();
    loop {
        let unfinished = match unfinished_deliveries(&system.pool, orgs).await {
            Ok(None) => return None,
            Ok(Some(unfinished)) => unfinished,
            Err(error) => format!("PostgreSQL: {error}"),
        };
        if started.elapsed() > timeout {
            return Some(Violation::new("not-settled", format!("within {} s: {unfinished}", timeout.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The number of unfinished deliveries, as a sentence; `None` when all are finished.
async fn unfinished_deliveries(pool: &PgPool, orgs: &[Uuid]) -> Result<Option<String>, sqlx::Error> {
    let query = sqlx::query(
        "SELECT count(*) AS open, string_agg(DISTINCT state, ', ') AS states FROM (
             SELECT state FROM delivery_schedule WHERE org_id = ANY ($1) AND finished_at IS NULL
             UNION ALL SELECT 'awaiting_dedup' FROM deliveries_awaiting_dedup WHERE org_id = ANY ($1)) AS unfinished",
    );
    let row = query.bind(orgs.to_vec()).fetch_one(pool).await?;
    let (open, states): (i64, Option<String>) = (row.try_get("open")?, row.try_get("states")?);
    Ok((open > 0).then(|| format!("{open} deliveries are not finished ({})", states.unwrap_or_default())))
}
