//! Options and outcomes of a round, and what the final check needs of it.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::check::Violation;
use crate::fault::FaultTiming;
use crate::ledger::{SendCounts, ShownEvent};

/// How many violations of one rule are reported one by one.
const MAX_EXAMPLES: usize = 20;

/// Options of a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoundOptions {
    pub rate: u32,
    /// Duration of the load before the fault.
    pub load_before: Duration,
    /// Duration of the load after recovery.
    pub load_after: Duration,
    /// Timeout of each wait: for recovery, for consumers, for deliveries.
    pub settle: Duration,
    /// How long faults last.
    pub timing: FaultTiming,
}

/// The outcomes of a round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcomes {
    /// Requests by outcome.
    pub counts: SendCounts,
    /// Events in the inboxes.
    pub shown: usize,
    /// Confirmed acknowledgements.
    pub acknowledged: usize,
    /// Webhooks that were answered with success.
    pub delivered: usize,
    /// Of these, repeated ones.
    pub repeated: usize,
    /// Duration of the fault, in seconds.
    pub lasted_seconds: f64,
    /// From the end of the fault until accepted events were shown, consumers had caught up and new requests were
    /// accepted, in seconds.
    pub recovery_seconds: Option<f64>,
    pub violations: Vec<Violation>,
}

impl Outcomes {
    /// Adds violations: the first of each rule, and the number of the others.
    pub(crate) fn add_violations(&mut self, found: Vec<Violation>) {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for violation in found {
            let count = counts.entry(violation.rule.clone()).or_default();
            *count += 1;
            if *count <= MAX_EXAMPLES {
                self.violations.push(violation);
            }
        }
        for (rule, count) in counts.into_iter().filter(|(_, count)| *count > MAX_EXAMPLES) {
            self.violations.push(Violation::new(&rule, format!("and {} more", count - MAX_EXAMPLES)));
        }
    }
}

/// The result of a round for one organization. The final check must find it unchanged.
pub(crate) struct RoundResult {
    pub org: Uuid,
    /// An API key of it.
    pub key: String,
    /// Its inbox, in order.
    pub rows: Vec<ShownEvent>,
    pub endpoints: Vec<String>,
    /// Number of receipts that were checked with the round. The final check checks the later ones.
    pub receipts_checked: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_violations_of_a_rule_are_listed() {
        let mut outcomes = Outcomes::default();
        let lost = (0..MAX_EXAMPLES + 3).map(|n| Violation::new("lost", n.to_string()));
        outcomes.add_violations(lost.chain([Violation::new("order", "x")]).collect());
        assert_eq!(outcomes.violations.len(), MAX_EXAMPLES + 2);
        assert!(outcomes.violations.contains(&Violation::new("lost", "and 3 more")));
    }
}
