//! The last broker's disk, a small one in memory, is filled to the last byte. A broker without a disk ends; it is
//! started again with room.

use std::time::Instant;

use super::{NotHere, Struck, Times, struck};
use crate::faults::system::System;

pub(super) fn not_here(system: &System) -> Option<NotHere> {
    system.cluster.node_with_small_disk().err().map(NotHere)
}

pub(super) async fn strike(system: &System, times: Times) -> anyhow::Result<Struck> {
    let id = system.cluster.node_with_small_disk().map_err(anyhow::Error::msg)?;
    let began = Instant::now();
    system.cluster.fill_disk()?;
    tokio::time::sleep(times.kept).await;
    let missed = unharmed(system, id).await.into_iter().collect();
    system.cluster.clear_disk()?;
    let undone = Instant::now();
    // Whether it ended or goes on with what it has in memory: it begins anew, as an operator would let it.
    system.cluster.node(id)?.kill().await;
    system.cluster.start_nodes(&[id]).await?;
    Ok(Struck { undone, missed, ..struck(began) })
}

/// That the full disk did nothing: the broker neither ended nor lost its place among the copies of the events.
async fn unharmed(system: &System, id: i32) -> Option<String> {
    let _runs = system.cluster.node(id).ok()?.pid()?;
    let serving = system.serving_events().await.ok()?;
    serving.in_sync.contains(&id).then(|| format!("broker {id} runs on and is in sync, with its disk full"))
}
