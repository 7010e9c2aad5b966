//! The producers' bounds are reached: by bounds of two events, or by brokers that are halted while the load goes on.

use std::time::Instant;

use devstack::Signal;

use super::{Struck, Times, struck};
use crate::faults::fleet::Role;
use crate::faults::system::System;

/// How the bounds are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// `ingest` is started with room for two events.
    TinyBounds,
    /// No broker answers.
    HaltedBrokers,
}

pub(super) async fn strike(system: &System, how: How, times: Times) -> anyhow::Result<Struck> {
    let began = Instant::now();
    match how {
        How::HaltedBrokers => {
            for id in system.cluster.ids() {
                system.cluster.node(id)?.signal(Signal::STOP);
            }
            let away = Instant::now();
            tokio::time::sleep(times.kept).await;
            let coming = Instant::now();
            for id in system.cluster.ids() {
                system.cluster.node(id)?.signal(Signal::CONT);
            }
            Ok(Struck { silence: Some((away, coming)), undone: coming, ..struck(began) })
        }
        How::TinyBounds => {
            // A linger long enough that requests meet.
            let bounds = [
                ("MAX_CONCURRENT_EVENTS", "2"),
                ("MAX_CONCURRENT_EVENTS_PER_PARTITION", "1"),
                ("KAFKA_LINGER_MS", "50"),
            ];
            let mut wrong = restart_ingest(system, &bounds).await?;
            tokio::time::sleep(times.kept).await;
            wrong.extend(restart_ingest(system, &[]).await?);
            Ok(Struck { wrong, ..struck(began) })
        }
    }
}

async fn restart_ingest(system: &System, knobs: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    for instance in system.fleet.of(Role::Ingest) {
        instance.set_extra(knobs);
        if !system.fleet.terminate(instance).await {
            wrong.push(format!("{} did not end in order after SIGTERM", instance.name));
        }
        system.fleet.start(instance)?;
        system.fleet.ready(instance).await?;
    }
    Ok(wrong)
}
