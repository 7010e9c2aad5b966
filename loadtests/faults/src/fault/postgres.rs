//! PostgreSQL is restarted by a fast or an immediate shutdown, or halted.

use std::time::Instant;

use devstack::Signal;

use super::contract::{Fault, Injection, InjectionContext, Pending, REPORT_RETRIES, RedeliveryPolicy};

pub(super) const ALL: &[&dyn Fault] = &[
    &PostgresFault {
        id: "postgres-fast",
        what: "PostgreSQL restarted, fast shutdown",
        action: Action::FastShutdown,
        short: true,
    },
    &PostgresFault {
        id: "postgres-immediate",
        what: "PostgreSQL restarted, immediate shutdown",
        action: Action::ImmediateShutdown,
        short: true,
    },
    &PostgresFault { id: "postgres-stop", what: "SIGSTOP of PostgreSQL", action: Action::Halt, short: false },
];

/// What is done to PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Fast shutdown, and a restart later.
    FastShutdown,
    /// Immediate shutdown, and a restart with crash recovery later.
    ImmediateShutdown,
    /// SIGSTOP, and SIGCONT later.
    Halt,
}

struct PostgresFault {
    id: &'static str,
    what: &'static str,
    action: Action,
    short: bool,
}

impl PostgresFault {
    async fn hit(&self, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
        let postgres = context.system.cluster.postgres();
        let started = Instant::now();
        match self.action {
            Action::Halt => {
                postgres.signal(Signal::STOP);
                tokio::time::sleep(context.timing.halted).await;
                postgres.signal(Signal::CONT);
                return Ok(context.injected_since(started));
            }
            Action::FastShutdown => postgres.stop().await,
            Action::ImmediateShutdown => postgres.stop_at_once().await,
        }
        tokio::time::sleep(context.timing.down).await;
        let undone = Instant::now();
        postgres.start().await?;
        Ok(Injection { undone, ..context.injected_since(started) })
    }
}

impl Fault for PostgresFault {
    fn id(&self) -> &'static str {
        self.id
    }

    fn describe(&self) -> &'static str {
        self.what
    }

    fn in_short_form(&self) -> bool {
        self.short
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> Pending<'a, Injection> {
        Box::pin(self.hit(context))
    }

    /// Attempt reports are lost while PostgreSQL is down.
    fn redelivery_allowed(&self, _injection: &Injection) -> RedeliveryPolicy {
        RedeliveryPolicy::WhileInjected { margin: REPORT_RETRIES }
    }
}
