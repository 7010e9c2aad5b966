//! Brokers are killed or halted: one, the controller leader, or two of three. With two of three down no event may be
//! accepted.
//!
//! A broker that leads no partition is hardly missed, and after a fault leadership moves back late. So the choice asks
//! for the current leaders.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Context;
use devstack::Signal;

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, REPORT_RETRIES, RedeliveryPolicy};
use crate::system::System;

pub(super) const ALL: &[&dyn Fault] = &[
    &fault(FaultInfo::new("broker-kill", "SIGKILL of one broker"), Victims::One, BrokerAction::Kill),
    &fault(FaultInfo::new("broker-stop", "SIGSTOP of one broker"), Victims::One, BrokerAction::Halt),
    &fault(
        FaultInfo::new("leader-kill", "SIGKILL of the controller leader").short(),
        Victims::ControllerLeader,
        BrokerAction::Kill,
    ),
    &fault(
        FaultInfo::new("leader-stop", "SIGSTOP of the controller leader"),
        Victims::ControllerLeader,
        BrokerAction::Halt,
    ),
    &fault(FaultInfo::new("two-brokers-kill", "SIGKILL of two brokers of three"), Victims::Two, BrokerAction::Kill),
    &fault(FaultInfo::new("two-brokers-stop", "SIGSTOP of two brokers of three"), Victims::Two, BrokerAction::Halt),
];

/// What is done to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BrokerAction {
    /// SIGKILL, and a restart later.
    Kill,
    /// SIGSTOP, and SIGCONT later.
    Halt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victims {
    /// One that leads partitions of the events topic; if possible not the controller leader.
    One,
    ControllerLeader,
    /// Two, which is a majority of three.
    Two,
}

struct BrokerFault {
    info: FaultInfo,
    victims: Victims,
    action: BrokerAction,
}

const fn fault(info: FaultInfo, victims: Victims, action: BrokerAction) -> BrokerFault {
    BrokerFault { info, victims, action }
}

impl BrokerFault {
    async fn hit(&self, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
        let cluster = &context.system.cluster;
        let controller = cluster.controller_leader().context("the controller has no leader")?;
        let leaders = context.system.events_topic_brokers().await?.leaders;
        let chosen = choose(self.victims, controller, cluster.ids(), &leaders, context.pick);
        let mut no_effect = Vec::new();
        // The controller leader is hit for its role in the controller quorum.
        if self.victims != Victims::ControllerLeader && !chosen.iter().any(|id| leaders.contains(id)) {
            no_effect.push(format!("none of the brokers {chosen:?} led a partition of the events topic"));
        }
        let started = Instant::now();
        for id in &chosen {
            let node = cluster.node(*id)?;
            match self.action {
                BrokerAction::Halt => node.signal(Signal::STOP),
                BrokerAction::Kill => node.kill().await,
            }
        }
        let all_down = Instant::now();
        tokio::time::sleep(match self.action {
            BrokerAction::Halt => context.timing.halted,
            BrokerAction::Kill => context.timing.down,
        })
        .await;
        let undone = Instant::now();
        match self.action {
            BrokerAction::Halt => {
                for id in &chosen {
                    cluster.node(*id)?.signal(Signal::CONT);
                }
            }
            BrokerAction::Kill => cluster.start_nodes(&chosen).await?,
        }
        let is_majority = chosen.len() * 2 > usize::from(context.system.options.brokers);
        let without_quorum = is_majority.then_some((all_down, undone));
        Ok(Injection { without_quorum, undone, no_effect, ..context.injected_since(started) })
    }
}

impl Fault for BrokerFault {
    fn info(&self) -> FaultInfo {
        self.info
    }

    fn available(&self, system: &System) -> Result<(), String> {
        let needed = if self.victims == Victims::Two { 3 } else { 1 };
        if system.options.brokers < needed { Err(format!("needs {needed} brokers")) } else { Ok(()) }
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection> {
        Box::pin(self.hit(context))
    }

    /// Attempt reports are lost while Kafka is down.
    fn redelivery_allowed(&self, _injection: &Injection) -> RedeliveryPolicy {
        RedeliveryPolicy::WhileInjected { margin: REPORT_RETRIES }
    }
}

/// The brokers to hit. `controller` is the controller leader, `leaders` lead partitions of the events topic.
fn choose(victims: Victims, controller: i32, mut ids: Vec<i32>, leaders: &BTreeSet<i32>, pick: u64) -> Vec<i32> {
    ids.retain(|id| *id != controller);
    let turn = usize::try_from(pick).unwrap_or(0) % ids.len().max(1);
    ids.rotate_left(turn);
    // A stable sort: it keeps the rotated order among equals.
    ids.sort_by_key(|id| !leaders.contains(id));
    let other = ids.first().copied();
    match victims {
        Victims::One => {
            let leads_alone = leaders.contains(&controller) && other.is_none_or(|id| !leaders.contains(&id));
            vec![other.filter(|_| !leads_alone).unwrap_or(controller)]
        }
        Victims::ControllerLeader => vec![controller],
        Victims::Two => other.into_iter().chain([controller]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_leaders_are_hit_first() {
        use Victims::{ControllerLeader, One, Two};
        let chosen = |victims, leaders: &[i32], pick| {
            choose(victims, 2, vec![1, 2, 3], &leaders.iter().copied().collect(), pick)
        };
        assert_eq!((chosen(One, &[1, 2, 3], 0), chosen(One, &[1, 2, 3], 1)), (vec![1], vec![3]));
        assert_eq!((chosen(One, &[2, 3], 0), chosen(One, &[2, 3], 1)), (vec![3], vec![3]));
        assert_eq!(chosen(One, &[2], 0), [2], "no other broker leads");
        assert_eq!(chosen(One, &[], 0), [1]);
        assert_eq!(chosen(ControllerLeader, &[1], 0), [2]);
        assert_eq!(chosen(Two, &[3], 0), [3, 2]);
        assert_eq!(choose(One, 1, vec![1], &BTreeSet::from([1]), 7), [1], "there is no other broker");
    }
}
