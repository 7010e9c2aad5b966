//! What a dispatcher knows of an endpoint and shows to others. Pure. `conditions` stores it.

use std::time::{Duration, Instant};

use schemas::ids::EndpointId;

use super::circuit::Circuit;

/// A failing endpoint is reported again after so long, since another dispatcher may have reported a success.
const REPORT_FAILING: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CircuitState {
    Closed,
    Open { until: Instant },
    HalfOpen,
}

impl CircuitState {
    /// The name in the database and in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl From<Circuit> for CircuitState {
    fn from(circuit: Circuit) -> Self {
        match circuit {
            Circuit::Closed { .. } => Self::Closed,
            Circuit::Open { until, .. } => Self::Open { until },
            Circuit::HalfOpen { .. } => Self::HalfOpen,
        }
    }
}

/// Without what changes with each attempt: a change of this is worth a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub circuit: CircuitState,
    /// It asked for a pause until then.
    pub stopped_until: Option<Instant>,
    /// Attempts that may be in flight at the same time.
    pub max_in_flight: usize,
}

impl Condition {
    /// Of an endpoint of which nothing is known.
    pub(super) const fn initial(max_in_flight: usize) -> Self {
        Self { circuit: CircuitState::Closed, stopped_until: None, max_in_flight }
    }
}

/// A change to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConditionChange {
    pub endpoint_id: EndpointId,
    /// `None`: it is not new.
    pub condition: Option<Condition>,
    /// Whether its last attempt failed; `None`: that is not known, or not new.
    pub is_failing: Option<bool>,
}

/// A condition that another dispatcher has written, or an earlier process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredCondition {
    pub endpoint_id: EndpointId,
    /// The circuit is open and lets one attempt through after this time.
    pub retry_after: Option<Duration>,
    /// It asked for a pause of so long from now on.
    pub stopped_for: Option<Duration>,
    /// Rises with each change.
    pub version: i64,
}

/// Whether attempts of an endpoint fail. A change is to be reported once; failures again from time to time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Health {
    #[default]
    Unknown,
    Working,
    Failing {
        reported: Instant,
    },
}

impl Health {
    /// The state after an attempt, and whether to report it.
    pub(super) fn after(self, is_success: bool, now: Instant) -> (Self, bool) {
        match (self, is_success) {
            (Self::Working, true) => (self, false),
            (_, true) => (Self::Working, true),
            (Self::Failing { reported }, false) if now.saturating_duration_since(reported) < REPORT_FAILING => {
                (self, false)
            }
            (_, false) => (Self::Failing { reported: now }, true),
        }
    }

    pub(super) fn is_failing(self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Working => Some(false),
            Self::Failing { .. } => Some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_reported_once_and_failures_every_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::Unknown;
        let mut report = |is_success, seconds| {
            let (after, is_reported) = health.after(is_success, at(seconds));
            health = after;
            is_reported
        };
        let steps = [(true, 0), (true, 1), (false, 2), (false, 61), (false, 62), (false, 63), (true, 64), (true, 65)];
        let reported = steps.map(|(is_success, seconds)| report(is_success, seconds));
        assert_eq!(reported, [true, false, true, false, true, false, true, false]);
    }
}
