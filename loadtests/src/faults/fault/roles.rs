//! One instance of a role is killed, asked to end, or halted past its session.

use std::time::Instant;

use anyhow::bail;
use devstack::Signal;

use super::{Blow, Struck, Times, struck};
use crate::faults::fleet::Role;
use crate::faults::system::System;

pub(super) async fn strike(system: &System, role: Role, blow: Blow, times: Times, pick: u64) -> anyhow::Result<Struck> {
    let instances = system.fleet.of(role);
    let chosen = usize::try_from(pick).unwrap_or(0) % instances.len().max(1);
    let Some(instance) = instances.get(chosen) else { bail!("there is no {}", role.name()) };
    let began = Instant::now();
    let mut wrong = Vec::new();
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
    Ok(Struck { undone, wrong, ..struck(began) })
}
