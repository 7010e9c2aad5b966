//! Runs one round from the creation of its organizations to the comparison with a rebuilt view.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use time::OffsetDateTime;

use super::compare::Comparison;
use super::outcomes::{Outcomes, RoundOptions, RoundResult};
use super::rebalances::ClaimCounts;
use crate::check::Violation;
use crate::fault::{self, Fault, InjectionContext};
use crate::load::{Load, RoundContext};
use crate::rebuild_check::compare_with_rebuild;
use crate::system::System;
use crate::waiting::{wait_for_consumers, wait_for_recovery};

/// Runs a round, and adds its results to `results`. All tags and names of the round start with `name`.
pub(crate) async fn run(
    system: &System,
    fault: &dyn Fault,
    options: RoundOptions,
    name: &str,
    pick: u64,
    results: &mut Vec<RoundResult>,
) -> anyhow::Result<Outcomes> {
    // The final check needs the receipts of all rounds.
    if results.is_empty() {
        system.receiver.clear();
    }
    let tenants = Arc::new(system.create_tenants(name).await.context("creating organizations")?);
    let (started_at, started) = (OffsetDateTime::now_utc(), Instant::now());
    let log_start = system.end_offsets().await?;
    let claims = ClaimCounts::now(system).await?;
    let context = Arc::new(RoundContext {
        api: Arc::clone(&system.api),
        brokers: system.cluster.kafka_brokers().to_owned(),
        topics: system.topics.clone(),
        tenants: Arc::clone(&tenants),
        ledger: Arc::default(),
        receiver: Arc::clone(&system.receiver),
        rate: options.rate,
        prefix: name.to_owned(),
    });
    let mut load = Load::start(&context)?;
    tokio::time::sleep(options.load_before).await;
    let injection =
        fault::inject(fault, &InjectionContext { system, tenants: &tenants, timing: options.timing, pick }).await;
    let victim_ready = Instant::now();
    let mut recovery = Err("the fault could not be injected".to_owned());
    if let Ok(injection) = &injection {
        recovery = wait_for_recovery(system, &context, injection.undone, options.settle).await;
        tokio::time::sleep(options.load_after).await;
    }
    load.stop_sending().await;
    let injection = injection?;
    let mut outcomes = Outcomes {
        counts: context.ledger.counts(),
        lasted_seconds: injection.undone.duration_since(injection.started).as_secs_f64(),
        ..Outcomes::default()
    };
    match recovery {
        Ok(seconds) => outcomes.recovery_seconds = Some(seconds),
        Err(reason) => outcomes.violations.push(Violation::new("not-recovered", reason)),
    }
    let log_end = wait_for_consumers(system, options.settle, &mut outcomes.violations).await?;
    let comparison = Comparison {
        system,
        fault,
        context: &context,
        injection: &injection,
        claims,
        started,
        victim_ready,
        settle: options.settle,
    };
    results.extend(comparison.run(log_start, log_end, load, &mut outcomes).await?);
    let failures = fault.clean_up(system).await.context("undoing the fault")?;
    outcomes.violations.extend(failures.into_iter().map(|failure| Violation::new("fault", failure)));
    let differs =
        compare_with_rebuild(system, started_at, options.settle).await.context("comparing with a rebuilt view")?;
    outcomes.violations.extend(differs);
    Ok(outcomes)
}
