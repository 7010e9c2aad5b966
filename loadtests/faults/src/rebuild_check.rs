//! Compares the view with one that the product's own command rebuilds from the log: counts and checksums of every
//! organization. At the end of a run the rebuilt view replaces the current one, and the log is replayed into it.
//!
//! Projector and rebuild could have the same bug. `check::view_matches_log` would find it, because the suite reads the
//! log itself.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::check::Violation;
use crate::system::System;

/// Compares the view with a rebuild of everything since `from`. The view is not changed.
pub(crate) async fn compare_with_rebuild(
    system: &System,
    from: OffsetDateTime,
    timeout: Duration,
) -> anyhow::Result<Vec<Violation>> {
    let from = from.format(&Rfc3339)?;
    run(system, "rebuild-differs", &["view", "rebuild", "--dry-run", "--restart", "--from", &from], timeout).await
}

/// Rebuilds and replays everything twice. The caller compares the inboxes afterwards.
pub(crate) async fn rebuild_and_replay(
    system: &System,
    from: OffsetDateTime,
    timeout: Duration,
) -> anyhow::Result<Vec<Violation>> {
    let from = from.format(&Rfc3339)?;
    let mut found = Vec::new();
    for _ in 0..2 {
        found.extend(run(system, "rebuild-differs", &["view", "rebuild", "--restart"], timeout).await?);
        found.extend(run(system, "replay-failed", &["view", "replay", "--from", &from], timeout).await?);
    }
    Ok(found)
}

/// Runs a command. Its output is the violation if it fails.
async fn run(system: &System, rule: &str, arguments: &[&str], timeout: Duration) -> anyhow::Result<Vec<Violation>> {
    let failed = system.command(arguments, timeout).await?.err();
    Ok(failed.map(|output| Violation::new(rule, output)).into_iter().collect())
}
