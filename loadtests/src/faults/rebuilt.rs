//! The view against one that the product's own command builds from the log, by counts and checksums of every
//! organization; and at the end of a run the same thing for good: the rebuilt view takes the other's place, and the log
//! is read into it again and again.
//!
//! Beside it stands the suite's own reading of the log (`check::equals_the_log`), which would notice if projector and
//! rebuild were wrong alike.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::check::Violation;
use super::system::System;

/// Whether the view is what a rebuild of everything since `from` gives. The view stays as it is.
pub async fn equals_a_rebuild(
    system: &System,
    from: OffsetDateTime,
    patience: Duration,
) -> anyhow::Result<Vec<Violation>> {
    let from = from.format(&Rfc3339)?;
    run(system, "rebuild-differs", &["view", "rebuild", "--dry-run", "--restart", "--from", &from], patience).await
}

/// Rebuilds everything twice and replays everything twice. What is shown must be the same afterwards: that is for the
/// caller to compare.
pub async fn rebuild_and_replay(
    system: &System,
    begun: OffsetDateTime,
    patience: Duration,
) -> anyhow::Result<Vec<Violation>> {
    let begun = begun.format(&Rfc3339)?;
    let mut found = Vec::new();
    for _ in 0..2 {
        found.extend(run(system, "rebuild-differs", &["view", "rebuild", "--restart"], patience).await?);
        found.extend(run(system, "replay-failed", &["view", "replay", "--from", &begun], patience).await?);
    }
    Ok(found)
}

/// A command's refusal, as it is told, is the violation.
async fn run(system: &System, rule: &str, arguments: &[&str], patience: Duration) -> anyhow::Result<Vec<Violation>> {
    let refused = system.command(arguments, patience).await?.err();
    Ok(refused.map(|told| Violation::new(rule, told)).into_iter().collect())
}
