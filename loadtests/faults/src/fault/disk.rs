//! The disk of the last broker, a small one in memory, is filled completely. A broker without disk space exits; it is
//! restarted with space.

use std::time::Instant;

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, REPORT_RETRIES, RedeliveryPolicy};
use crate::system::System;

pub(super) const ALL: &[&dyn Fault] = &[&FullDisk];

struct FullDisk;

impl FullDisk {
    async fn fill(&self, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
        let cluster = &context.system.cluster;
        let id = cluster.node_with_small_disk().map_err(anyhow::Error::msg)?;
        let started = Instant::now();
        cluster.fill_disk()?;
        tokio::time::sleep(context.timing.condition).await;
        let no_effect = still_in_sync(context.system, id).await.into_iter().collect();
        cluster.clear_disk()?;
        let undone = Instant::now();
        // Restarted in any case, as an operator would do.
        cluster.node(id)?.kill().await;
        cluster.start_nodes(&[id]).await?;
        Ok(Injection { undone, no_effect, ..context.injected_since(started) })
    }
}

impl Fault for FullDisk {
    fn info(&self) -> FaultInfo {
        FaultInfo::new("disk-full", "a broker's disk is full")
    }

    fn available(&self, system: &System) -> Result<(), String> {
        system.cluster.node_with_small_disk().map(|_| ())
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection> {
        Box::pin(self.fill(context))
    }

    /// Attempt reports are lost while the broker is down.
    fn redelivery_allowed(&self, _injection: &Injection) -> RedeliveryPolicy {
        RedeliveryPolicy::WhileInjected { margin: REPORT_RETRIES }
    }
}

/// A sentence if the full disk had no effect: the broker neither exited nor left the in-sync replicas.
async fn still_in_sync(system: &System, id: i32) -> Option<String> {
    let _is_running = system.cluster.node(id).ok()?.pid()?;
    let brokers = system.events_topic_brokers().await.ok()?;
    brokers.in_sync.contains(&id).then(|| format!("broker {id} runs and is in sync although its disk is full"))
}
