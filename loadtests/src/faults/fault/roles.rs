//! One instance of a role is killed, asked to end, or halted past its session. Of the consumers it is one that holds
//! partitions: nobody would miss another one.

use std::time::Instant;

use anyhow::{Context, bail};
use devstack::Signal;

use super::{Blow, Struck, Times, struck};
use crate::faults::fleet::{Instance, Role};
use crate::faults::system::System;

/// Who claimed a partition last, of each one. The audit notes the user of each claim.
const HOLDERS: &str = "
    SELECT DISTINCT held.holder FROM (
        SELECT DISTINCT ON (c.partition) c.holder FROM fault_audit.claims c
        WHERE c.consumer = $1 AND c.topic = $2 ORDER BY c.partition, c.epoch DESC
    ) AS held";

pub(super) async fn strike(system: &System, role: Role, blow: Blow, times: Times, pick: u64) -> anyhow::Result<Struck> {
    let (mut wrong, mut missed) = (Vec::new(), Vec::new());
    let mut instances = at_work(system, role).await.context("asking who holds partitions")?;
    if instances.is_empty() {
        missed.push(format!("no {} held a partition of the events topic", role.name()));
        instances = system.fleet.of(role);
    }
    let chosen = usize::try_from(pick).unwrap_or(0) % instances.len().max(1);
    let Some(instance) = instances.get(chosen) else { bail!("there is no {}", role.name()) };
    let began = Instant::now();
    match blow {
        Blow::Halt => {
            instance.signal(Signal::STOP).await;
            tokio::time::sleep(times.halted).await;
            instance.signal(Signal::CONT).await;
        }
        Blow::Kill => {
            instance.signal(Signal::KILL).await;
            tokio::time::sleep(times.down).await;
            system.fleet.start(instance)?;
        }
        Blow::End | Blow::EndAtOnce => {
            if !system.fleet.terminate(instance).await {
                wrong.push(format!("{} did not end in order after SIGTERM", instance.name));
            }
            tokio::time::sleep(times.down).await;
            system.fleet.start(instance)?;
        }
    }
    let undone = Instant::now();
    system.fleet.ready(instance).await?;
    Ok(Struck { undone, wrong, missed, ..struck(began) })
}

/// Those that have something to lose: all that serve HTTP, and the consumers that hold a partition of the events topic.
async fn at_work(system: &System, role: Role) -> anyhow::Result<Vec<&Instance>> {
    let mut instances = system.fleet.of(role);
    if role != Role::Ingest {
        let asked = sqlx::query_scalar::<_, String>(HOLDERS).bind(role.name()).bind(system.topics.events.as_str());
        let holders = asked.fetch_all(&system.pool).await?;
        instances.retain(|instance| holders.contains(&format!("instance_{}", instance.name.replace('-', "_"))));
    }
    Ok(instances)
}
