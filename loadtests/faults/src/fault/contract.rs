//! What every fault provides, what it gets, and what it reports. Each fault itself is in the file of the component that
//! it hits.

use std::pin::Pin;
use std::time::{Duration, Instant};

use crate::load::Tenant;
use crate::system::System;
use loadkit::Role;

/// A step of a fault. Boxed, so that faults of different types are in one list.
pub(super) type FaultFuture<'a, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + 'a>>;

/// Name and description of a fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FaultInfo {
    pub id: &'static str,
    /// What the fault does, in a few words.
    pub description: &'static str,
    /// Whether the short form of the suite, with one broker, includes it.
    pub in_short_form: bool,
}

impl FaultInfo {
    pub(super) const fn new(id: &'static str, description: &'static str) -> Self {
        Self { id, description, in_short_form: false }
    }

    pub(super) const fn short(self) -> Self {
        Self { in_short_form: true, ..self }
    }
}

/// One kind of failure that the suite can inject.
pub(crate) trait Fault: Sync {
    fn info(&self) -> FaultInfo;

    /// The name on the command line and in reports.
    fn id(&self) -> &'static str {
        self.info().id
    }

    /// Whether the fault can be injected into this system.
    ///
    /// # Errors
    /// The reason why it cannot.
    fn available(&self, _system: &System) -> Result<(), String> {
        Ok(())
    }

    /// Injects the fault, waits, and undoes it. Returns when the victim is ready again.
    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection>;

    /// Undoes what has to last until the round is over. Returns what failed, one sentence each.
    fn clean_up<'a>(&'a self, _system: &'a System) -> FaultFuture<'a, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// The role whose partitions the fault makes another instance claim.
    fn rebalances(&self) -> Option<Role> {
        None
    }

    /// When a delivery may be repeated although the endpoint had answered with success.
    fn redelivery_allowed(&self, injection: &Injection) -> RedeliveryPolicy;
}

/// When a delivery may be repeated although the endpoint had answered with success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RedeliveryPolicy {
    /// Never: no dispatcher lost a partition and no attempt report was lost.
    Never,
    /// From the start of the fault until the victim is ready, and `margin` longer.
    WhileInjected {
        /// How long after recovery a report or a lease may still be lost.
        margin: Duration,
    },
    /// Only in a round in which dispatchers were rebalanced although the fault does not hit them. The time of that
    /// rebalance is unknown, so any time of the round counts.
    IfDispatchersRebalanced,
}

/// What a fault gets.
pub(crate) struct InjectionContext<'a> {
    /// The system to break.
    pub system: &'a System,
    /// The organizations of the round.
    pub tenants: &'a [Tenant],
    /// How long the fault lasts.
    pub timing: FaultTiming,
    /// Chooses one of several possible victims.
    pub pick: u64,
}

/// How long faults last; chosen per run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FaultTiming {
    /// How long a killed or terminated process stays down.
    pub down: Duration,
    /// How long a process is halted: longer than the session of a consumer.
    pub halted: Duration,
    /// How long a condition lasts, such as a receiver that hangs.
    pub condition: Duration,
}

/// What an injected fault did.
pub(crate) struct Injection {
    pub started: Instant,
    /// When it was undone.
    pub undone: Instant,
    /// How long a silent consumer keeps its partitions in this run.
    pub consumer_session: Duration,
    /// The time in which too few brokers were up to accept any event.
    pub without_quorum: Option<(Instant, Instant)>,
    /// What had to hold and did not, one sentence each.
    pub failures: Vec<String>,
    /// Why the fault could not have broken anything, one sentence each. Such a round proves nothing.
    pub no_effect: Vec<String>,
}

impl InjectionContext<'_> {
    /// An injection that started then and was undone just now.
    pub(crate) fn injected_since(&self, started: Instant) -> Injection {
        Injection {
            started,
            undone: Instant::now(),
            consumer_session: Duration::from_millis(u64::from(self.system.options.session_ms)),
            without_quorum: None,
            failures: Vec::new(),
            no_effect: Vec::new(),
        }
    }
}

/// How long the product retries to report an attempt. Answers that come later than this after Kafka and PostgreSQL are
/// back are always reported.
pub(super) const REPORT_RETRIES: Duration = Duration::from_secs(15);
