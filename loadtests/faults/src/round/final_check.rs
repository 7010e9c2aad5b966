//! The final check of a run, after rebuilds and replays: each inbox is as its round left it, the view still matches the
//! complete log, no webhook was repeated, and the system still works.

use std::time::{Duration, Instant};

use anyhow::Context;
use time::OffsetDateTime;
use uuid::Uuid;

use super::outcomes::{Outcomes, RoundResult};
use crate::check::{Violation, delivered_later, duplicates_justified, view_matches_log};
use crate::inbox;
use crate::rebuild_check::rebuild_and_replay;
use crate::smoke_after::smoke_after;
use crate::system::System;
use crate::waiting::{wait_for_consumers, wait_for_deliveries};

/// Rebuilds and replays everything since `started_at`, and checks the results of all rounds again.
pub(crate) async fn final_check(
    system: &System,
    results: &[RoundResult],
    started_at: OffsetDateTime,
    settle: Duration,
) -> anyhow::Result<Vec<Violation>> {
    let mut outcomes = Outcomes::default();
    let log_end = wait_for_consumers(system, settle, &mut outcomes.violations).await?;
    outcomes.violations.extend(rebuild_and_replay(system, started_at, settle).await?);
    outcomes.violations.extend(smoke_after(system, settle).await);
    let orgs: Vec<Uuid> = results.iter().map(|result| result.org).collect();
    outcomes.violations.extend(wait_for_deliveries(system, &orgs, settle).await);
    let log = system.read_log(None, log_end).await.context("reading the complete log")?;
    let duplicates = inbox::duplicates(&system.pool).await?;
    let mut found = Vec::new();
    for RoundResult { org, key, rows, endpoints, receipts_checked } in results {
        let now = inbox::read(&system.api, key, Instant::now() + settle).await.context("reading an inbox")?;
        if now != *rows {
            let first =
                rows.iter().zip(&now).find(|(before, now)| before != now).map_or(Uuid::nil(), |(before, _)| before.id);
            let message = format!(
                "the inbox of {org} had {} events after its round and has {} now; the first difference is {first}",
                rows.len(),
                now.len()
            );
            found.push(Violation::new("changed-later", message));
        }
        found.extend(view_matches_log(*org, &log.events, &log.acked, &duplicates, &now));
        found.extend(duplicates_justified(*org, &log.events, &duplicates));
        found.extend(delivered_later(endpoints, rows, &system.receiver.receipts(endpoints), *receipts_checked));
    }
    found.extend(system.background_violations().await?);
    outcomes.add_violations(found);
    Ok(outcomes.violations)
}
