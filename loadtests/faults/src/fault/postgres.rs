//! PostgreSQL is restarted by a fast or an immediate shutdown, or halted.

use std::time::Instant;

use devstack::Signal;

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, REPORT_RETRIES, RedeliveryPolicy};

pub(super) const ALL: &[&dyn Fault] = &[
    &fault(
        FaultInfo::new("postgres-fast", "PostgreSQL restarted, fast shutdown").short(),
        PostgresAction::FastShutdown,
    ),
    &fault(
        FaultInfo::new("postgres-immediate", "PostgreSQL restarted, immediate shutdown").short(),
        PostgresAction::ImmediateShutdown,
    ),
    &fault(FaultInfo::new("postgres-stop", "SIGSTOP of PostgreSQL"), PostgresAction::Halt),
];

/// What is done to PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PostgresAction {
    /// Fast shutdown, and a restart later.
    FastShutdown,
    /// Immediate shutdown, and a restart with crash recovery later.
    ImmediateShutdown,
    /// SIGSTOP, and SIGCONT later.
    Halt,
}

struct PostgresFault {
    info: FaultInfo,
    action: PostgresAction,
}

const fn fault(info: FaultInfo, action: PostgresAction) -> PostgresFault {
    PostgresFault { info, action }
}

impl PostgresFault {
    async fn hit(&self, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
        let postgres = context.system.cluster.postgres();
        let started = Instant::now();
        match self.action {
            PostgresAction::Halt => {
                postgres.signal(Signal::STOP);
                tokio::time::sleep(context.timing.halted).await;
                postgres.signal(Signal::CONT);
                return Ok(context.injected_since(started));
            }
            PostgresAction::FastShutdown => postgres.stop().await,
            PostgresAction::ImmediateShutdown => postgres.stop_immediately().await,
        }
        tokio::time::sleep(context.timing.down).await;
        let undone = Instant::now();
        postgres.start().await?;
        Ok(Injection { undone, ..context.injected_since(started) })
    }
}

impl Fault for PostgresFault {
    fn info(&self) -> FaultInfo {
        self.info
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection> {
        Box::pin(self.hit(context))
    }

    /// Attempt reports are lost while PostgreSQL is down.
    fn redelivery_allowed(&self, _injection: &Injection) -> RedeliveryPolicy {
        RedeliveryPolicy::WhileInjected { margin: REPORT_RETRIES }
    }
}
