//! Consumers join and leave quickly, so that one rebalance follows the other.

use std::time::{Duration, Instant};

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, RedeliveryPolicy};
use super::roles::HANDOVER;
use loadkit::Role;

/// Wait between two changes of the group: shorter than a rebalance takes.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) const ALL: &[&dyn Fault] = &[&RebalanceStorm];

struct RebalanceStorm;

impl RebalanceStorm {
    async fn restart_consumers(&self, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
        let fleet = &context.system.fleet;
        let started = Instant::now();
        let mut failures = Vec::new();
        let consumers = || [Role::Materializer, Role::Dispatcher].into_iter().flat_map(|role| fleet.of(role));
        while started.elapsed() < context.timing.condition {
            for instance in consumers() {
                if !fleet.terminate(instance).await {
                    failures.push(format!("{} did not exit cleanly during rebalances", instance.name));
                }
                fleet.start(instance)?;
                tokio::time::sleep(PAUSE).await;
            }
        }
        let undone = Instant::now();
        for instance in consumers() {
            fleet.wait_ready(instance).await?;
        }
        Ok(Injection { undone, failures, ..context.injected_since(started) })
    }
}

impl Fault for RebalanceStorm {
    fn info(&self) -> FaultInfo {
        FaultInfo::new("rebalance-storm", "consumers join and leave quickly")
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection> {
        Box::pin(self.restart_consumers(context))
    }

    fn redelivery_allowed(&self, injection: &Injection) -> RedeliveryPolicy {
        RedeliveryPolicy::WhileInjected { margin: injection.consumer_session + HANDOVER }
    }
}
