//! All faults that the suite can inject. A new fault is a new entry in the `ALL` of its file; a new file has an entry
//! in [`all`].

mod brokers;
mod clock;
mod contract;
mod disk;
mod hostile;
mod postgres;
mod producer_queue;
mod rebalances;
mod receivers;
mod roles;

pub(crate) use self::contract::{Fault, FaultTiming, Injection, InjectionContext, RedeliveryPolicy};

/// All faults, in the order in which they run alone.
pub(crate) fn all() -> Vec<&'static dyn Fault> {
    [
        roles::ALL,
        brokers::ALL,
        postgres::ALL,
        rebalances::ALL,
        producer_queue::ALL,
        receivers::ALL,
        hostile::ALL,
        disk::ALL,
        clock::ALL,
    ]
    .concat()
}

/// Injects the fault. Also reports the processes that had exited before it.
pub(crate) async fn inject(fault: &dyn Fault, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
    // Checked before: the fault may restart a victim that had exited, and hide that.
    let exited = context.system.fleet.exited_unexpectedly();
    let mut injection = fault.inject(context).await?;
    injection.failures.extend(exited.into_iter().map(|name| format!("{name} had exited before the fault")));
    Ok(injection)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<&str> = all().iter().map(|fault| fault.id()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn the_short_form_hits_each_component_it_has() {
        let short: Vec<&str> = all().into_iter().filter(|fault| fault.info().in_short_form).map(Fault::id).collect();
        for component in ["ingest", "materializer", "dispatcher", "leader", "postgres", "receiver", "queue"] {
            assert!(short.iter().any(|id| id.starts_with(component)), "no fault of {component} in {short:?}");
        }
    }

    #[test]
    fn redelivery_depends_on_who_is_hit_and_how() {
        let now = Instant::now();
        let injection = Injection {
            started: now,
            undone: now,
            consumer_session: Duration::from_secs(6),
            without_quorum: None,
            failures: Vec::new(),
            no_effect: Vec::new(),
        };
        let margin = |seconds| RedeliveryPolicy::WhileInjected { margin: Duration::from_secs(seconds) };
        let expected = |id: &str| match id {
            // Everything is handed over cleanly.
            "dispatcher-term" | "clock-back" | "clock-forward" | "hostile-names" => RedeliveryPolicy::Never,
            // Dispatchers lose partitions with attempts in flight.
            "dispatcher-kill" | "dispatcher-stop" | "rebalance-storm" => margin(6 + 10),
            // Attempt reports are lost.
            "queue-halted" | "disk-full" => margin(15),
            id if id.contains("broker") || id.starts_with("leader") || id.starts_with("postgres") => margin(15),
            _ => RedeliveryPolicy::IfDispatchersRebalanced,
        };
        for fault in all() {
            assert_eq!(fault.redelivery_allowed(&injection), expected(fault.id()), "{}", fault.id());
        }
    }
}
