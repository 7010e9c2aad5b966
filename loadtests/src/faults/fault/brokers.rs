//! Brokers are killed or halted: one, the controller leader, two of three. With two of three away nothing may be accepted.

use std::time::Instant;

use anyhow::Context;
use devstack::Signal;

use super::{Blow, NotHere, Struck, Times, Which, struck};
use crate::faults::system::System;

pub(super) fn not_here(system: &System, which: Which) -> Option<NotHere> {
    let needed = if which == Which::Two { 3 } else { 1 };
    (system.shape.brokers < needed).then(|| NotHere(format!("it takes {needed} brokers")))
}

pub(super) async fn strike(system: &System, which: Which, blow: Blow, times: Times, pick: u64) -> anyhow::Result<Struck> {
    let leader = system.cluster.controller_leader().context("no broker leads the controllers")?;
    let mut others: Vec<i32> = system.cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let turn = usize::try_from(pick).unwrap_or(0) % others.len().max(1);
    others.rotate_left(turn);
    let chosen: Vec<i32> = match which {
        Which::One => others.first().copied().into_iter().chain([leader]).take(1).collect(),
        Which::Leader => vec![leader],
        Which::Two => others.first().copied().into_iter().chain([leader]).collect(),
    };
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
    Ok(Struck { silence, undone: coming, ..struck(began) })
}
