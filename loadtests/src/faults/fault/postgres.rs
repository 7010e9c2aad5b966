//! PostgreSQL is restarted, in order or at once, or halted.

use std::time::Instant;

use devstack::Signal;

use super::{Blow, Struck, Times, struck};
use crate::faults::system::System;

pub(super) async fn strike(system: &System, blow: Blow, times: Times) -> anyhow::Result<Struck> {
    let postgres = system.cluster.postgres();
    let began = Instant::now();
    match blow {
        Blow::Halt => {
            postgres.signal(Signal::STOP);
            tokio::time::sleep(times.halted).await;
            postgres.signal(Signal::CONT);
            return Ok(struck(began));
        }
        Blow::End => postgres.stop().await,
        Blow::EndAtOnce => postgres.stop_at_once().await,
        Blow::Kill => postgres.kill().await,
    }
    tokio::time::sleep(times.down).await;
    let undone = Instant::now();
    postgres.start().await?;
    Ok(Struck { undone, ..struck(began) })
}
