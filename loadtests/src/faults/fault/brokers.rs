//! Brokers are killed or halted: one, the controller leader, two of three. With two of three away nothing may be
//! accepted.
//!
//! One that leads no partition is hardly missed, and after a fault leadership comes back late: so the choice asks who
//! leads now.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Context;
use devstack::Signal;

use super::{Blow, NotHere, Struck, Times, Which, struck};
use crate::faults::system::System;

pub(super) fn not_here(system: &System, which: Which) -> Option<NotHere> {
    let needed = if which == Which::Two { 3 } else { 1 };
    (system.shape.brokers < needed).then(|| NotHere(format!("it takes {needed} brokers")))
}

pub(super) async fn strike(
    system: &System,
    which: Which,
    blow: Blow,
    times: Times,
    pick: u64,
) -> anyhow::Result<Struck> {
    let leader = system.cluster.controller_leader().context("no broker leads the controllers")?;
    let leading = system.serving_events().await?.leading;
    let chosen = choose(which, leader, system.cluster.ids(), &leading, pick);
    let mut missed = Vec::new();
    // The leader of the controllers is struck for what it does for the controllers.
    if which != Which::Leader && !chosen.iter().any(|id| leading.contains(id)) {
        missed.push(format!("of the brokers {chosen:?} none led a partition of the events topic"));
    }
    let began = Instant::now();
    for id in &chosen {
        let node = system.cluster.node(*id)?;
        if blow == Blow::Halt { node.signal(Signal::STOP) } else { node.kill().await }
    }
    let away = Instant::now();
    tokio::time::sleep(if blow == Blow::Halt { times.halted } else { times.down }).await;
    let coming = Instant::now();
    if blow == Blow::Halt {
        for id in &chosen {
            system.cluster.node(*id)?.signal(Signal::CONT);
        }
    } else {
        system.cluster.start_nodes(&chosen).await?;
    }
    let silence = (chosen.len() * 2 > usize::from(system.shape.brokers)).then_some((away, coming));
    Ok(Struck { silence, undone: coming, missed, ..struck(began) })
}

/// Those to strike; `leader` leads the controllers, `leading` lead partitions of the events topic.
fn choose(which: Which, leader: i32, mut ids: Vec<i32>, leading: &BTreeSet<i32>, pick: u64) -> Vec<i32> {
    ids.retain(|id| *id != leader);
    let turn = usize::try_from(pick).unwrap_or(0) % ids.len().max(1);
    ids.rotate_left(turn);
    // Keeps the order among equals.
    ids.sort_by_key(|id| !leading.contains(id));
    let other = ids.first().copied();
    match which {
        Which::One => {
            let leads_alone = leading.contains(&leader) && other.is_none_or(|id| !leading.contains(&id));
            vec![other.filter(|_| !leads_alone).unwrap_or(leader)]
        }
        Which::Leader => vec![leader],
        Which::Two => other.into_iter().chain([leader]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leads_partitions_is_struck_first() {
        let chosen =
            |which, leading: &[i32], pick| choose(which, 2, vec![1, 2, 3], &leading.iter().copied().collect(), pick);
        assert_eq!((chosen(Which::One, &[1, 2, 3], 0), chosen(Which::One, &[1, 2, 3], 1)), (vec![1], vec![3]));
        assert_eq!((chosen(Which::One, &[2, 3], 0), chosen(Which::One, &[2, 3], 1)), (vec![3], vec![3]));
        assert_eq!(chosen(Which::One, &[2], 0), [2], "nobody else leads");
        assert_eq!(chosen(Which::One, &[], 0), [1]);
        assert_eq!(chosen(Which::Leader, &[1], 0), [2]);
        assert_eq!(chosen(Which::Two, &[3], 0), [3, 2]);
        assert_eq!(choose(Which::One, 1, vec![1], &BTreeSet::from([1]), 7), [1], "there is no other");
    }
}
