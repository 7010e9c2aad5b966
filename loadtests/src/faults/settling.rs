//! Waiting, each time bounded: until the system has recovered, until no consumer is behind, until no delivery is open.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::check::Violation;
use super::ledger::Ledger;
use super::load::{Ground, reach_all};
use super::positions::{Ends, behind};
use super::system::System;

const POLL: Duration = Duration::from_millis(100);

/// Waits until everything goes on as before the fault, which ended at `since`: what was accepted is shown and passed,
/// and each kind of request, and each instance of `ingest`, is served again. Answers how long that took, in seconds.
pub async fn recovered(system: &System, ground: &Ground, since: Instant, patience: Duration) -> Result<f64, String> {
    let (caught_up, reached) = tokio::join!(
        caught_up(system, ground, since, patience),
        reach_all(ground, system.fleet.base_urls(), since, patience)
    );
    Ok(caught_up?.max(reached?))
}

/// Waits until what was accepted before is visible to the tails, all consumers have passed the log's ends as they are
/// first told now, and requests are taken that were begun after `since`.
async fn caught_up(system: &System, ground: &Ground, since: Instant, patience: Duration) -> Result<f64, String> {
    let tags = ground.ledger.accepted_tags();
    let mut ends = None;
    let mut missing = None;
    while since.elapsed() < patience {
        if ends.is_none() {
            ends = system.ends().await.ok();
        }
        missing = ends.is_none().then(|| "Kafka does not tell where its log ends".to_owned());
        if missing.is_none() {
            missing = unseen(&ground.ledger, &tags).or_else(|| ground.not_taken_since(since));
        }
        if let (None, Some(ends)) = (&missing, &ends) {
            missing = behind(&system.pool, &system.topics, ends)
                .await
                .unwrap_or_else(|error| Some(format!("PostgreSQL: {error}")));
        }
        if missing.is_none() {
            return Ok(since.elapsed().as_secs_f64());
        }
        tokio::time::sleep(POLL).await;
    }
    Err(format!("within {} s: {}", patience.as_secs(), missing.unwrap_or_default()))
}

/// An accepted event that no tail has shown yet.
fn unseen(ledger: &Ledger, tags: &[(usize, String)]) -> Option<String> {
    let mut seen: HashMap<usize, HashSet<String>> = HashMap::new();
    for (tenant, _) in tags {
        seen.entry(*tenant).or_insert_with(|| ledger.seen(*tenant).into_iter().map(|shown| shown.tag).collect());
    }
    let missing = tags.iter().find(|(tenant, tag)| seen.get(tenant).is_some_and(|seen| !seen.contains(tag)));
    missing.map(|(_, tag)| format!("{tag} was accepted and is not shown"))
}

/// Waits until nothing is behind, with nobody writing; answers where the log ends.
pub async fn settled(system: &System, patience: Duration, found: &mut Vec<Violation>) -> anyhow::Result<Ends> {
    let begun = Instant::now();
    loop {
        let ends = system.ends().await;
        let state = match &ends {
            Ok(ends) => behind(&system.pool, &system.topics, ends)
                .await
                .unwrap_or_else(|error| Some(format!("PostgreSQL: {error}"))),
            Err(error) => Some(format!("{error:#}")),
        };
        match (ends, state) {
            (Ok(ends), None) => return Ok(ends),
            (ends, Some(state)) if begun.elapsed() > patience => {
                found.push(Violation::new("not-settled", format!("within {} s: {state}", patience.as_secs())));
                return ends;
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

/// Waits until no delivery of these organizations is open: what is repeated because somebody was struck comes when a
/// lease ends, which is longer than the first deliveries take.
pub async fn finished(system: &System, orgs: &[Uuid], patience: Duration) -> Option<Violation> {
    let begun = Instant::now();
    loop {
        let open = match unfinished(&system.pool, orgs).await {
            Ok(None) => return None,
            Ok(Some(open)) => open,
            Err(error) => format!("PostgreSQL: {error}"),
        };
        if begun.elapsed() > patience {
            return Some(Violation::new("not-settled", format!("within {} s: {open}", patience.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How many deliveries are open, as a sentence; none when there is none.
async fn unfinished(pool: &PgPool, orgs: &[Uuid]) -> Result<Option<String>, sqlx::Error> {
    let asked = sqlx::query(
        "SELECT count(*) AS open, string_agg(DISTINCT state, ', ') AS states FROM (
             SELECT state FROM delivery_schedule WHERE org_id = ANY ($1) AND finished_at IS NULL
             UNION ALL SELECT 'awaiting_dedup' FROM deliveries_awaiting_dedup WHERE org_id = ANY ($1)) AS unfinished",
    );
    let row = asked.bind(orgs.to_vec()).fetch_one(pool).await?;
    let (open, states): (i64, Option<String>) = (row.try_get("open")?, row.try_get("states")?);
    Ok((open > 0).then(|| format!("{open} deliveries are not finished ({})", states.unwrap_or_default())))
}
