//! The shape of a load on the command line, and the load it makes: defaults filled in, bounds kept, contradictions
//! refused.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::error::Failure;
use crate::pair::Compared;
use crate::request::MIN_PAYLOAD_BYTES;
use crate::scenario::{Load, Pace, Scenario};
use crate::schedule::Schedule;

/// Most requests of one run: their ids are kept to be compared with the inbox (24 bytes and more each).
const MAX_REQUESTS: u64 = 20_000_000;
/// Longest run in all: times are kept as microseconds in 32 bits.
const MAX_RUN: Duration = Duration::from_secs(70 * 60);
/// Longest closed run, whose number of requests nothing else bounds.
const MAX_CLOSED_RUN: Duration = Duration::from_secs(120);
/// Largest payload the product takes.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// The shape of the load.
#[derive(Args, Clone)]
pub struct LoadArgs {
    /// Requests per second.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=200_000))]
    pub rate: Option<u64>,
    /// Time that is measured: 90, 90s, 5m, 500ms.
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// Time before it that is not counted: the rate rises (open) or the system warms up (closed).
    #[arg(long, value_parser = duration)]
    pub ramp: Option<Duration>,
    /// Exact size of each payload's JSON text.
    #[arg(long, default_value_t = 600)]
    pub payload_bytes: usize,
    /// Organizations that take turns.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub orgs: Option<u32>,
    /// Give every event a dedup_id of its own.
    #[arg(long)]
    pub keyed: bool,
    /// Connections: the bound of requests in flight (open model).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: Option<u32>,
    /// Closed loop: send as soon as the last reply is there.
    #[arg(long)]
    pub closed: bool,
    /// Requests in flight in the closed loop [default: 256].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub concurrency: Option<u32>,
    /// How long a reply may take.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub timeout_ms: u64,
    /// Threads that drive the connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub client_threads: u8,
    /// Folder of the report [default: loadtests/reports/TIME-NAME].
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// A load's figures where the command line names none.
#[derive(Clone, Copy)]
struct Defaults {
    rate: u64,
    ramp: Duration,
    hold: Duration,
    organizations: usize,
    connections: usize,
}

impl LoadArgs {
    /// The load of `scenario`, with what the command line overrides.
    pub fn of_scenario(&self, scenario: Scenario) -> Result<Load, Failure> {
        let (rate, ramp, hold, organizations, connections) = scenario.shape();
        self.load(Defaults { rate, ramp, hold, organizations, connections })
    }

    /// The load of a bare loop.
    pub fn of_bare(&self) -> Result<Load, Failure> {
        let seconds = Duration::from_secs;
        self.load(Defaults {
            rate: 10_000,
            ramp: seconds(10),
            hold: seconds(60),
            organizations: 1_000,
            connections: 256,
        })
    }

    /// The load of a comparison.
    pub fn of_pair(&self, compared: Compared) -> Result<Load, Failure> {
        match (compared, self.closed) {
            (Compared::S1, _) => Self { closed: true, ..self.clone() }.of_bare(),
            (Compared::S2, false) => self.of_bare(),
            (Compared::S2, true) => Err(Failure::Usage("s2 is the open model: it cannot be --closed".to_owned())),
        }
    }

    fn load(&self, defaults: Defaults) -> Result<Load, Failure> {
        let refuse = |text: String| Err(Failure::Usage(text));
        if !(MIN_PAYLOAD_BYTES..=MAX_PAYLOAD_BYTES).contains(&self.payload_bytes) {
            return refuse(format!("--payload-bytes must be {MIN_PAYLOAD_BYTES} to {MAX_PAYLOAD_BYTES}"));
        }
        if self.closed && (self.rate.is_some() || self.connections.is_some()) {
            return refuse("a closed loop has --concurrency and neither --rate nor --connections".to_owned());
        }
        if !self.closed && self.concurrency.is_some() {
            return refuse(
                "--concurrency belongs to the closed loop; the open model is bounded by --connections".to_owned(),
            );
        }
        let (pace, measured) = if self.closed {
            let (warm_up, measured) =
                (self.ramp.unwrap_or(Duration::from_secs(5)), self.duration.unwrap_or(Duration::from_secs(20)));
            if warm_up + measured > MAX_CLOSED_RUN {
                return refuse(format!("a closed run lasts {} s at most", MAX_CLOSED_RUN.as_secs()));
            }
            (Pace::Closed { warm_up, measured }, measured)
        } else {
            let (ramp, hold) = (self.ramp.unwrap_or(defaults.ramp), self.duration.unwrap_or(defaults.hold));
            let schedule = Schedule::new(self.rate.unwrap_or(defaults.rate), ramp, hold);
            if ramp + hold > MAX_RUN || schedule.total() > MAX_REQUESTS {
                return refuse(format!(
                    "a run has {MAX_REQUESTS} requests and lasts {} min at most",
                    MAX_RUN.as_secs() / 60
                ));
            }
            (Pace::Open(schedule), hold)
        };
        if measured.is_zero() {
            return refuse("--duration must be more than nothing".to_owned());
        }
        let asked = if self.closed { Some(self.concurrency.unwrap_or(256)) } else { self.connections };
        let connections = asked.map_or(defaults.connections, |n| n as usize);
        Ok(Load {
            pace,
            measured,
            connections,
            payload_bytes: self.payload_bytes,
            organizations: self.orgs.map_or(defaults.organizations, |n| n as usize),
            keyed: self.keyed,
            timeout: Duration::from_millis(self.timeout_ms),
            client_threads: usize::from(self.client_threads).min(connections),
        })
    }
}

/// A duration: seconds, or a number with `ms`, `s` or `m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| "not a duration: say 90, 90s, 5m or 500ms".to_owned())?;
    let millis = match &text[digits.len()..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    millis
        .filter(|millis| *millis <= 24 * 3_600_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "say 90, 90s, 5m or 500ms; a day at most".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::run_args;

    #[test]
    fn what_would_not_end_or_not_fit_is_wrong_usage() {
        for line in [
            "loadtests run --duration 200m",
            "loadtests run --rate 200000 --duration 30m",
            "loadtests run --payload-bytes 5",
            "loadtests run --closed --rate 5",
            "loadtests run --concurrency 5",
            "loadtests run --duration 0",
        ] {
            let arguments = run_args(line);
            assert!(matches!(arguments.load.of_scenario(arguments.scenario), Err(Failure::Usage(_))), "{line}");
        }
        assert!(run_args("loadtests run").load.of_pair(Compared::S1).is_ok());
        assert!(run_args("loadtests run --rate 5").load.of_pair(Compared::S1).is_err());
    }

    #[test]
    fn durations_are_read_in_their_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "s", "5h", "-1", "1.5s", "99999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
