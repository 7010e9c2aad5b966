//! One instance of a role is killed, terminated, or halted for longer than its session.
//!
//! Of the consumers the victim is one that owns partitions: any other one would have no effect.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use devstack::Signal;

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, RedeliveryPolicy};
use crate::fleet::Instance;
use crate::system::System;
use loadkit::Role;

/// How long a dispatcher that gives up partitions waits for its attempts (8 s), and commits.
pub(super) const HANDOVER: Duration = Duration::from_secs(10);

/// The database users that claimed each partition last. The audit records the user of each claim.
const OWNERS: &str = "
    SELECT DISTINCT held.holder FROM (
        SELECT DISTINCT ON (c.partition) c.holder FROM fault_audit.claims c
        WHERE c.consumer = $1 AND c.topic = $2 ORDER BY c.partition, c.epoch DESC
    ) AS held";

pub(super) const ALL: &[&dyn Fault] = &[
    &fault(FaultInfo::new("ingest-kill", "SIGKILL of one ingest").short(), Role::Ingest, RoleAction::Kill),
    &fault(FaultInfo::new("ingest-term", "SIGTERM of one ingest").short(), Role::Ingest, RoleAction::Terminate),
    &fault(FaultInfo::new("ingest-stop", "SIGSTOP of one ingest"), Role::Ingest, RoleAction::Halt),
    &fault(
        FaultInfo::new("materializer-kill", "SIGKILL of one materializer").short(),
        Role::Materializer,
        RoleAction::Kill,
    ),
    &fault(
        FaultInfo::new("materializer-term", "SIGTERM of one materializer"),
        Role::Materializer,
        RoleAction::Terminate,
    ),
    &fault(
        FaultInfo::new("materializer-stop", "SIGSTOP of one materializer").short(),
        Role::Materializer,
        RoleAction::Halt,
    ),
    &fault(FaultInfo::new("dispatcher-kill", "SIGKILL of one dispatcher").short(), Role::Dispatcher, RoleAction::Kill),
    &fault(
        FaultInfo::new("dispatcher-term", "SIGTERM of one dispatcher").short(),
        Role::Dispatcher,
        RoleAction::Terminate,
    ),
    &fault(FaultInfo::new("dispatcher-stop", "SIGSTOP of one dispatcher"), Role::Dispatcher, RoleAction::Halt),
];

/// What is done to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RoleAction {
    /// SIGKILL, and a restart later.
    Kill,
    /// SIGTERM, and a restart later.
    Terminate,
    /// SIGSTOP, and SIGCONT later.
    Halt,
}

struct RoleFault {
    info: FaultInfo,
    role: Role,
    action: RoleAction,
}

const fn fault(info: FaultInfo, role: Role, action: RoleAction) -> RoleFault {
    RoleFault { info, role, action }
}

impl RoleFault {
    async fn hit_one(&self, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
        let (system, role) = (context.system, self.role);
        let (mut failures, mut no_effect) = (Vec::new(), Vec::new());
        let mut instances = instances_with_work(system, role).await.context("asking which instances own partitions")?;
        if instances.is_empty() {
            no_effect.push(format!("no {} owned a partition of the events topic", role.name()));
            instances = system.fleet.of(role);
        }
        let chosen = usize::try_from(context.pick).unwrap_or(0) % instances.len().max(1);
        let Some(instance) = instances.get(chosen) else { bail!("there is no {}", role.name()) };
        let started = Instant::now();
        match self.action {
            RoleAction::Halt => {
                instance.signal(Signal::STOP).await;
                tokio::time::sleep(context.timing.halted).await;
                instance.signal(Signal::CONT).await;
            }
            RoleAction::Kill => {
                instance.signal(Signal::KILL).await;
                tokio::time::sleep(context.timing.down).await;
                system.fleet.start(instance)?;
            }
            RoleAction::Terminate => {
                if !system.fleet.terminate(instance).await {
                    failures.push(format!("{} did not exit cleanly after SIGTERM", instance.name));
                }
                tokio::time::sleep(context.timing.down).await;
                system.fleet.start(instance)?;
            }
        }
        let undone = Instant::now();
        system.fleet.wait_ready(instance).await?;
        Ok(Injection { undone, failures, no_effect, ..context.injected_since(started) })
    }
}

impl Fault for RoleFault {
    fn info(&self) -> FaultInfo {
        self.info
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection> {
        Box::pin(self.hit_one(context))
    }

    fn rebalances(&self) -> Option<Role> {
        Some(self.role).filter(|role| *role != Role::Ingest)
    }

    fn redelivery_allowed(&self, injection: &Injection) -> RedeliveryPolicy {
        match (self.role, self.action) {
            // A terminated dispatcher finishes the attempts that it started.
            (Role::Dispatcher, RoleAction::Terminate) => RedeliveryPolicy::Never,
            (Role::Dispatcher, _) => RedeliveryPolicy::WhileInjected { margin: injection.consumer_session + HANDOVER },
            _ => RedeliveryPolicy::IfDispatchersRebalanced,
        }
    }
}

/// The instances that have something to lose: all that serve HTTP, and consumers that own a partition of the events
/// topic.
async fn instances_with_work(system: &System, role: Role) -> anyhow::Result<Vec<&Instance>> {
    let mut instances = system.fleet.of(role);
    if role != Role::Ingest {
        let query = sqlx::query_scalar::<_, String>(OWNERS).bind(role.name()).bind(system.topics.events.as_str());
        let owners = query.fetch_all(&system.pool).await?;
        instances.retain(|instance| owners.contains(&instance.database_user()));
    }
    Ok(instances)
}
