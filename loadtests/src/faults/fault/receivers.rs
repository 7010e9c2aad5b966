//! Every other receiver misbehaves, also one of two of the same organization; the others' deliveries must not notice.

use std::time::{Duration, Instant};

use super::{Struck, Times, struck};
use crate::faults::load::Tenant;
use crate::faults::receiver::{Manner, Receiver};
use crate::faults::system::System;

/// A receiver that is well gets something in so long, whatever the others do: far longer than between two events of one organization.
const HEARS_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn strike(system: &System, tenants: &[Tenant], manner: Manner, times: Times) -> anyhow::Result<Struck> {
    let all: Vec<String> = tenants.iter().flat_map(|tenant| tenant.endpoints.clone()).collect();
    let ill: Vec<String> = all.iter().step_by(2).cloned().collect();
    let well: Vec<String> = all.into_iter().skip(1).step_by(2).collect();
    let began = Instant::now();
    system.receiver.behave(&ill, manner);
    tokio::time::sleep(times.kept).await;
    let wrong = unlike(&system.receiver, &ill, &well, began);
    system.receiver.behave(&ill, Manner::Fine);
    Ok(Struck { wrong, ..struck(began) })
}

/// What is not as it must be while it lasts, a sentence each.
fn unlike(receiver: &Receiver, ill: &[String], well: &[String], began: Instant) -> Vec<String> {
    let since = Instant::now().checked_sub(HEARS_WITHIN).unwrap_or(began).max(began);
    let heard = receiver.receipts(well);
    let is_deaf =
        |endpoint: &&String| !heard.iter().any(|receipt| receipt.answered && receipt.at >= since && receipt.endpoint == **endpoint);
    let deaf = well.iter().filter(is_deaf).map(|endpoint| format!("{endpoint}, which is well, got nothing while others misbehaved"));
    let unmet =
        ill.iter().filter(|endpoint| !receiver.was_met(endpoint)).map(|endpoint| format!("{endpoint} misbehaved, and nothing came to it"));
    let strays = receiver.strays().into_iter().map(|path| format!("a request came to {path}, where a redirect leads"));
    deaf.chain(unmet).chain(strays).collect()
}
