//! The limits of the producers are reached: by limits of two events, or by brokers that are halted under load.

use std::time::Instant;

use devstack::Signal;

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, REPORT_RETRIES, RedeliveryPolicy};
use loadkit::Role;

/// Options of an `ingest` with room for two events. The linger is long enough for requests to meet.
const TINY_LIMITS: [(&str, &str); 3] =
    [("MAX_CONCURRENT_EVENTS", "2"), ("MAX_CONCURRENT_EVENTS_PER_PARTITION", "1"), ("KAFKA_LINGER_MS", "50")];

pub(super) const ALL: &[&dyn Fault] = &[&TinyLimits, &HaltedBrokers];

/// `ingest` is restarted with room for two events.
struct TinyLimits;

/// All brokers are halted.
struct HaltedBrokers;

impl Fault for TinyLimits {
    fn info(&self) -> FaultInfo {
        FaultInfo::new("queue-bounds", "ingest with room for two events in flight").short()
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection> {
        Box::pin(async move {
            let started = Instant::now();
            let mut failures = context.system.fleet.restart_in_turn(Role::Ingest, &TINY_LIMITS).await?;
            tokio::time::sleep(context.timing.condition).await;
            failures.extend(context.system.fleet.restart_in_turn(Role::Ingest, &[]).await?);
            Ok(Injection { failures, ..context.injected_since(started) })
        })
    }

    fn redelivery_allowed(&self, _injection: &Injection) -> RedeliveryPolicy {
        RedeliveryPolicy::IfDispatchersRebalanced
    }
}

impl Fault for HaltedBrokers {
    fn info(&self) -> FaultInfo {
        FaultInfo::new("queue-halted", "all brokers halted under load")
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection> {
        Box::pin(async move {
            let cluster = &context.system.cluster;
            let started = Instant::now();
            for id in cluster.ids() {
                cluster.node(id)?.signal(Signal::STOP);
            }
            let all_halted = Instant::now();
            tokio::time::sleep(context.timing.condition).await;
            let undone = Instant::now();
            for id in cluster.ids() {
                cluster.node(id)?.signal(Signal::CONT);
            }
            let without_quorum = Some((all_halted, undone));
            Ok(Injection { without_quorum, undone, ..context.injected_since(started) })
        })
    }

    /// Attempt reports are lost while Kafka is down.
    fn redelivery_allowed(&self, _injection: &Injection) -> RedeliveryPolicy {
        RedeliveryPolicy::WhileInjected { margin: REPORT_RETRIES }
    }
}
