//! Every other receiver misbehaves, also one of two of the same organization; the others' deliveries must not notice.

use std::time::{Duration, Instant};

use super::{Struck, Times, struck};
use crate::faults::load::Tenant;
use crate::faults::receiver::{Manner, Receiver};
use crate::faults::system::System;

/// A receiver that is well gets something in so long, whatever the others do: far longer than between two events of one
/// organization.
const HEARS_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

pub(super) async fn strike(
    system: &System,
    tenants: &[Tenant],
    manner: Manner,
    times: Times,
) -> anyhow::Result<Struck> {
    let all: Vec<String> = tenants.iter().flat_map(|tenant| tenant.endpoints.clone()).collect();
    let ill: Vec<String> = all.iter().step_by(2).cloned().collect();
    let well: Vec<String> = all.into_iter().skip(1).step_by(2).collect();
    let began = Instant::now();
    system.receiver.behave(&ill, manner);
    tokio::time::sleep(times.kept).await;
    let receiver = &system.receiver;
    // Each of them gets events all the time, but on a slow machine the first may be late.
    let unmet = || ill.iter().filter(|endpoint| !receiver.was_met(endpoint));
    while unmet().next().is_some() && began.elapsed() < times.kept + HEARS_WITHIN {
        tokio::time::sleep(POLL).await;
    }
    let missed = unmet().map(|endpoint| format!("{endpoint} misbehaved, and nothing came to it")).collect();
    let wrong = unlike(receiver, &well, began, Instant::now());
    receiver.behave(&ill, Manner::Fine);
    Ok(Struck { wrong, missed, ..struck(began) })
}

/// What was not as it must be between `began` and `ended`, a sentence each.
fn unlike(receiver: &Receiver, well: &[String], began: Instant, ended: Instant) -> Vec<String> {
    let heard = receiver.receipts(well);
    let is_deaf = |endpoint: &&String| {
        let answered: Vec<Instant> = heard
            .iter()
            .filter(|receipt| receipt.answered && receipt.endpoint == **endpoint)
            .map(|receipt| receipt.at)
            .collect();
        // A short fault has no longer silence than itself.
        let heard = answered.iter().any(|at| (began..ended).contains(at));
        !heard || longest_silence(&answered, began, ended) > HEARS_WITHIN
    };
    let deaf = well.iter().filter(is_deaf).map(|endpoint| {
        format!(
            "{endpoint}, which is well, got nothing for more than {} s, or at all, while others misbehaved",
            HEARS_WITHIN.as_secs()
        )
    });
    let strays = receiver.strays().into_iter().map(|path| format!("a request came to {path}, where a redirect leads"));
    deaf.chain(strays).collect()
}

/// The longest time between `began` and `ended` with nothing in it. `times` are in order.
fn longest_silence(times: &[Instant], began: Instant, ended: Instant) -> Duration {
    let within = times.iter().copied().filter(|at| (began..ended).contains(at));
    let mut last = began;
    let mut longest = Duration::ZERO;
    for at in within.chain([ended]) {
        longest = longest.max(at.saturating_duration_since(last));
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_measured_from_end_to_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let longest = |times: &[u64]| {
            longest_silence(&times.iter().map(|seconds| at(*seconds)).collect::<Vec<_>>(), at(10), at(20)).as_secs()
        };
        assert_eq!(longest(&[]), 10);
        assert_eq!(longest(&[5, 25]), 10, "what came before and after does not count");
        assert_eq!(longest(&[13, 16, 19]), 3);
        assert_eq!(longest(&[11, 12]), 8);
        assert_eq!(longest(&[18, 19]), 8);
    }
}
