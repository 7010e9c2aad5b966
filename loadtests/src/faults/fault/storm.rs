//! Consumers join and leave in quick succession, so that one rebalance follows the other.

use std::time::{Duration, Instant};

use super::{Struck, Times, struck};
use crate::faults::fleet::Role;
use crate::faults::system::System;

/// Between two changes: shorter than a rebalance takes to settle.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn strike(system: &System, times: Times) -> anyhow::Result<Struck> {
    let began = Instant::now();
    let mut wrong = Vec::new();
    let consumers = || [Role::Materializer, Role::Dispatcher].into_iter().flat_map(|role| system.fleet.of(role));
    while began.elapsed() < times.kept {
        for instance in consumers() {
            if !system.fleet.terminate(instance).await {
                wrong.push(format!("{} did not end in order in the middle of rebalances", instance.name));
            }
            system.fleet.start(instance)?;
            tokio::time::sleep(PAUSE).await;
        }
    }
    let undone = Instant::now();
    for instance in consumers() {
        system.fleet.ready(instance).await?;
    }
    Ok(Struck { undone, wrong, ..struck(began) })
}
