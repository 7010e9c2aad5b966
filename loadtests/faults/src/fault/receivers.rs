//! Every other webhook receiver misbehaves, including one of the two of an organization. Deliveries to the healthy
//! receivers must not be delayed.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, RedeliveryPolicy};
use crate::receiver::{Receiver, ReceiverBehavior};

/// A healthy receiver gets a request at least this often, whatever the others do. It is far longer than the time
/// between two events of one organization.
const MAX_GAP: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

pub(super) const ALL: &[&dyn Fault] = &[
    &fault(FaultInfo::new("receiver-hangs", "receivers that never answer"), ReceiverBehavior::Hangs),
    &fault(FaultInfo::new("receiver-resets", "receivers that reset the connection").short(), ReceiverBehavior::Resets),
    &fault(FaultInfo::new("receiver-500", "receivers that answer 500"), ReceiverBehavior::Status(500)),
    &fault(FaultInfo::new("receiver-429", "receivers that answer 429"), ReceiverBehavior::Status(429)),
    &fault(FaultInfo::new("receiver-301", "receivers that answer 301"), ReceiverBehavior::Status(301)),
    &fault(
        FaultInfo::new("receiver-closes", "receivers that close connections after a moment without a request"),
        ReceiverBehavior::ClosesIdle,
    ),
    &fault(FaultInfo::new("receiver-drips", "receivers that answer a byte a second"), ReceiverBehavior::Drips),
];

struct ReceiverFault {
    info: FaultInfo,
    behavior: ReceiverBehavior,
}

const fn fault(info: FaultInfo, behavior: ReceiverBehavior) -> ReceiverFault {
    ReceiverFault { info, behavior }
}

impl ReceiverFault {
    async fn misbehave(&self, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
        let receiver = &context.system.receiver;
        let all: Vec<String> = context.tenants.iter().flat_map(|tenant| tenant.endpoints.clone()).collect();
        let faulty: Vec<String> = all.iter().step_by(2).cloned().collect();
        let healthy: Vec<String> = all.into_iter().skip(1).step_by(2).collect();
        let started = Instant::now();
        receiver.set_behavior(&faulty, self.behavior);
        tokio::time::sleep(context.timing.condition).await;
        // Each endpoint gets events all the time, but on a slow machine the first one may be late.
        let not_called = || faulty.iter().filter(|endpoint| !receiver.was_called_while_faulty(endpoint));
        while not_called().next().is_some() && started.elapsed() < context.timing.condition + MAX_GAP {
            tokio::time::sleep(POLL).await;
        }
        let no_effect = not_called().map(|endpoint| format!("{endpoint} misbehaved and got no request")).collect();
        let mut failures = check_isolation(receiver, &healthy, started, Instant::now());
        if self.behavior == ReceiverBehavior::ClosesIdle {
            failures.extend(check_isolation(receiver, &faulty, started, Instant::now()));
            failures.extend(repeated_attempts(context).await?);
        }
        receiver.set_behavior(&faulty, ReceiverBehavior::Healthy);
        Ok(Injection { failures, no_effect, ..context.injected_since(started) })
    }
}

impl Fault for ReceiverFault {
    fn info(&self) -> FaultInfo {
        self.info
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection> {
        Box::pin(self.misbehave(context))
    }

    fn redelivery_allowed(&self, _injection: &Injection) -> RedeliveryPolicy {
        RedeliveryPolicy::IfDispatchersRebalanced
    }
}

/// Deliveries of the round that took more than one attempt, as a sentence: a closed connection is none.
async fn repeated_attempts(context: &InjectionContext<'_>) -> anyhow::Result<Option<String>> {
    let organizations: Vec<Uuid> = context.tenants.iter().map(|tenant| tenant.org).collect();
    let query = "SELECT count(*) FROM view.deliveries WHERE org_id = ANY($1) AND attempts > 1";
    let count: i64 = sqlx::query_scalar(query).bind(organizations).fetch_one(&context.system.pool).await?;
    Ok((count > 0).then(|| format!("{count} deliveries took more than one attempt, as idle connections were closed")))
}

/// Healthy receivers that got nothing for too long, and redirects that were followed, one sentence each.
pub(super) fn check_isolation(
    receiver: &Receiver,
    healthy: &[String],
    started: Instant,
    finished: Instant,
) -> Vec<String> {
    let receipts = receiver.receipts(healthy);
    let was_starved = |endpoint: &&String| {
        let times: Vec<Instant> = receipts
            .iter()
            .filter(|receipt| receipt.succeeded && receipt.endpoint == **endpoint)
            .map(|receipt| receipt.at)
            .collect();
        // A fault that is shorter than the allowed gap is no longer than its own gap.
        let has_any = times.iter().any(|at| (started..finished).contains(at));
        !has_any || longest_gap(&times, started, finished) > MAX_GAP
    };
    let starved = healthy.iter().filter(was_starved).map(|endpoint| {
        format!("the healthy {endpoint} got nothing for more than {} s while others misbehaved", MAX_GAP.as_secs())
    });
    let followed = receiver
        .unknown_paths()
        .into_iter()
        .map(|path| format!("a request came to {path}: the dispatcher followed a redirect"));
    starved.chain(followed).collect()
}

/// The longest time between `started` and `finished` without one of `times`, which are in order.
fn longest_gap(times: &[Instant], started: Instant, finished: Instant) -> Duration {
    let within = times.iter().copied().filter(|at| (started..finished).contains(at));
    let mut last = started;
    let mut longest = Duration::ZERO;
    for at in within.chain([finished]) {
        longest = longest.max(at.saturating_duration_since(last));
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_measured_from_start_to_finish() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let longest = |times: &[u64]| {
            longest_gap(&times.iter().map(|seconds| at(*seconds)).collect::<Vec<_>>(), at(10), at(20)).as_secs()
        };
        assert_eq!(longest(&[]), 10);
        assert_eq!(longest(&[5, 25]), 10, "requests before and after do not count");
        assert_eq!(longest(&[13, 16, 19]), 3);
        assert_eq!(longest(&[11, 12]), 8);
        assert_eq!(longest(&[18, 19]), 8);
    }
}
