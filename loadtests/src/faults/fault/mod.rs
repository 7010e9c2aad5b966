//! The faults: which there are, what each does to the system, how it is undone, and what is allowed because of it. One
//! file for each kind of part that is struck.

mod brokers;
mod clock;
mod disk;
mod postgres;
mod queue;
mod receivers;
mod roles;
mod storm;

use std::time::{Duration, Instant};

use super::check::Repeats;
use super::fleet::Role;
use super::load::Tenant;
use super::receiver::Manner;
use super::system::System;

/// A dispatcher that gives partitions up, because another one has come or gone, waits for its attempts this long (8 s),
/// and commits.
const HANDING_OVER: Duration = Duration::from_secs(10);
/// How long the product tries to report an attempt: what is answered later than this after Kafka and PostgreSQL are
/// back is reported.
const REPORTING: Duration = Duration::from_secs(15);

/// What is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One instance of a role.
    Role(Role, Blow),
    /// Brokers.
    Brokers(Which, Blow),
    /// The database.
    Postgres(Blow),
    /// The receivers of some organizations.
    Receivers(Manner),
    /// Consumers join and leave quickly.
    Storm,
    /// The producers' bounds are reached.
    Queue(queue::How),
    /// A broker's disk is full.
    Disk,
    /// The clock of all roles steps.
    Clock(clock::Step),
}

/// How something is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL, and started again.
    Kill,
    /// SIGTERM (PostgreSQL: its fast shutdown), and started again.
    End,
    /// PostgreSQL's immediate shutdown.
    EndAtOnce,
    /// SIGSTOP, and SIGCONT later.
    Halt,
}

/// Which brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// One that leads partitions of events; if possible not the one that leads the controllers.
    One,
    /// The one that leads the controllers.
    Leader,
    /// Two, so that most of three are down.
    Two,
}

/// One fault.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Its name, for the command line and the table.
    pub id: &'static str,
    /// What it does, in a few words.
    pub does: &'static str,
    /// What is struck.
    pub kind: Kind,
}

/// How long things last; chosen per run.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long something that was killed or ended stays away.
    pub down: Duration,
    /// How long something is halted: past the session of a consumer.
    pub halted: Duration,
    /// How long a state is kept, such as a receiver that hangs.
    pub kept: Duration,
}

/// What came of doing it.
pub struct Struck {
    /// When it began.
    pub began: Instant,
    /// When it was undone.
    pub undone: Instant,
    /// While this lasts no event may be accepted.
    pub silence: Option<(Instant, Instant)>,
    /// Something that must hold and did not, in a sentence.
    pub wrong: Vec<String>,
    /// Why the fault met nothing that could have failed, and so shows nothing, in a sentence.
    pub missed: Vec<String>,
}

/// Why a fault is not run here.
#[derive(Debug, Clone)]
pub struct NotHere(pub String);

const fn fault(id: &'static str, does: &'static str, kind: Kind) -> Fault {
    Fault { id, does, kind }
}

/// All faults, in the order in which they are run alone.
pub fn all() -> Vec<Fault> {
    let mut all = Vec::from(ROLES);
    all.extend(BROKERS);
    all.extend(OTHERS);
    all
}

const ROLES: [Fault; 9] = [
    fault("ingest-kill", "SIGKILL of one ingest", Kind::Role(Role::Ingest, Blow::Kill)),
    fault("ingest-term", "SIGTERM of one ingest", Kind::Role(Role::Ingest, Blow::End)),
    fault("ingest-stop", "SIGSTOP of one ingest", Kind::Role(Role::Ingest, Blow::Halt)),
    fault("materializer-kill", "SIGKILL of one materializer", Kind::Role(Role::Materializer, Blow::Kill)),
    fault("materializer-term", "SIGTERM of one materializer", Kind::Role(Role::Materializer, Blow::End)),
    fault("materializer-stop", "SIGSTOP of one materializer", Kind::Role(Role::Materializer, Blow::Halt)),
    fault("dispatcher-kill", "SIGKILL of one dispatcher", Kind::Role(Role::Dispatcher, Blow::Kill)),
    fault("dispatcher-term", "SIGTERM of one dispatcher", Kind::Role(Role::Dispatcher, Blow::End)),
    fault("dispatcher-stop", "SIGSTOP of one dispatcher", Kind::Role(Role::Dispatcher, Blow::Halt)),
];

const BROKERS: [Fault; 6] = [
    fault("broker-kill", "SIGKILL of one broker", Kind::Brokers(Which::One, Blow::Kill)),
    fault("broker-stop", "SIGSTOP of one broker", Kind::Brokers(Which::One, Blow::Halt)),
    fault("leader-kill", "SIGKILL of the controller leader", Kind::Brokers(Which::Leader, Blow::Kill)),
    fault("leader-stop", "SIGSTOP of the controller leader", Kind::Brokers(Which::Leader, Blow::Halt)),
    fault("two-brokers-kill", "SIGKILL of two brokers of three", Kind::Brokers(Which::Two, Blow::Kill)),
    fault("two-brokers-stop", "SIGSTOP of two brokers of three", Kind::Brokers(Which::Two, Blow::Halt)),
];

const OTHERS: [Fault; 15] = [
    fault("postgres-fast", "PostgreSQL restarted, fast shutdown", Kind::Postgres(Blow::End)),
    fault("postgres-immediate", "PostgreSQL restarted, immediate shutdown", Kind::Postgres(Blow::EndAtOnce)),
    fault("postgres-stop", "SIGSTOP of PostgreSQL", Kind::Postgres(Blow::Halt)),
    fault("rebalance-storm", "consumers join and leave quickly", Kind::Storm),
    fault("queue-bounds", "ingest with room for two events in flight", Kind::Queue(queue::How::TinyBounds)),
    fault("queue-halted", "all brokers halted under load", Kind::Queue(queue::How::HaltedBrokers)),
    fault("receiver-hangs", "receivers that never answer", Kind::Receivers(Manner::Hangs)),
    fault("receiver-resets", "receivers that reset the connection", Kind::Receivers(Manner::Resets)),
    fault("receiver-500", "receivers that answer 500", Kind::Receivers(Manner::Status(500))),
    fault("receiver-429", "receivers that answer 429", Kind::Receivers(Manner::Status(429))),
    fault("receiver-301", "receivers that answer 301", Kind::Receivers(Manner::Status(301))),
    fault("receiver-drips", "receivers that answer a byte a second", Kind::Receivers(Manner::Drips)),
    fault("disk-full", "a broker's disk is full", Kind::Disk),
    fault("clock-back", "the roles' clock steps back by an hour", Kind::Clock(clock::Step::Back)),
    fault("clock-forth", "the roles' clock steps forth by an hour", Kind::Clock(clock::Step::Forth)),
];

impl Fault {
    /// Why it cannot be run on this system, if it cannot.
    pub fn not_here(&self, system: &System) -> Option<NotHere> {
        match self.kind {
            Kind::Brokers(which, _) => brokers::not_here(system, which),
            Kind::Disk => disk::not_here(system),
            Kind::Clock(_) => clock::not_here(),
            _ => None,
        }
    }

    /// Does it, lets it last, and undoes it. `pick` chooses among equals.
    pub async fn strike(&self, system: &System, tenants: &[Tenant], times: Times, pick: u64) -> anyhow::Result<Struck> {
        // Asked now: a victim that is killed and started again does not tell any more that it had ended before.
        let ended = system.fleet.ended_alone();
        let mut struck = match self.kind {
            Kind::Role(role, blow) => roles::strike(system, role, blow, times, pick).await,
            Kind::Brokers(which, blow) => brokers::strike(system, which, blow, times, pick).await,
            Kind::Postgres(blow) => postgres::strike(system, blow, times).await,
            Kind::Receivers(manner) => receivers::strike(system, tenants, manner, times).await,
            Kind::Storm => storm::strike(system, times).await,
            Kind::Queue(how) => queue::strike(system, how, times).await,
            Kind::Disk => disk::strike(system, times).await,
            Kind::Clock(step) => clock::strike(system, step, times).await,
        }?;
        struck.wrong.extend(ended.into_iter().map(|name| format!("{name} had ended by itself before the fault")));
        Ok(struck)
    }

    /// What is left to be undone when the round is over. Answers what is wrong about it, a sentence each.
    pub async fn clean_up(&self, system: &System) -> anyhow::Result<Vec<String>> {
        match self.kind {
            Kind::Clock(_) => clock::clean_up(system).await,
            _ => Ok(Vec::new()),
        }
    }

    /// The role of which it takes partitions away, if it does: then somebody claims partitions before all is well
    /// again.
    pub fn unseats(&self) -> Option<Role> {
        match self.kind {
            Kind::Role(role @ (Role::Materializer | Role::Dispatcher), _) => Some(role),
            _ => None,
        }
    }

    /// Whether an event may be delivered again although it was answered with success. The fault began and was `back`
    /// then: not only undone, what was struck was up again. `session`: how long a silent dispatcher keeps its
    /// partitions. `lost_leases`: since the round began then, a dispatcher claimed partitions that another one (or it,
    /// before) held.
    pub fn repeats(&self, began: Instant, back: Instant, session: Duration, lost_leases: Option<Instant>) -> Repeats {
        let around = |slack: Duration| Repeats::Around { began, until: back + slack };
        match self.kind {
            // A dispatcher that is asked to end finishes what it began.
            Kind::Role(Role::Dispatcher, Blow::End) => Repeats::Never,
            Kind::Role(Role::Dispatcher, _) | Kind::Storm => around(session + HANDING_OVER),
            // Reports of attempts are lost with Kafka or PostgreSQL.
            Kind::Brokers(..) | Kind::Postgres(_) | Kind::Disk | Kind::Queue(queue::How::HaltedBrokers) => {
                around(REPORTING)
            }
            // The clock is stepped in new processes, to which the old ones hand over in order.
            Kind::Clock(_) => Repeats::Never,
            // Nobody struck the dispatchers, and when one lost its partitions is not known: any time of the round.
            Kind::Role(..) | Kind::Receivers(_) | Kind::Queue(queue::How::TinyBounds) => {
                lost_leases.map_or(Repeats::Never, |began| Repeats::Around { began, until: Instant::now() })
            }
        }
    }
}

/// The usual case: something was done from `began` until now.
fn struck(began: Instant) -> Struck {
    Struck { began, undone: Instant::now(), silence: None, wrong: Vec::new(), missed: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<&str> = all().iter().map(|fault| fault.id).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), count), (30, 30));
    }
}
