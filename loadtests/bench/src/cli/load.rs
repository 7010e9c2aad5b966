//! The options of a load, and the load that they give: with defaults, within bounds, and without contradictions.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use loadkit::{Failure, duration};

use crate::scenario::{Load, Pace, Scenario, Shape};
use crate::schedule::Schedule;
use crate::variation::{PayloadBytes, Shares};

/// Maximum number of requests of a run. Their ids are kept for the comparison with the inbox, 24 bytes or more each.
const MAX_REQUESTS: u64 = 20_000_000;
/// Maximum duration of a run. Times are kept as microseconds in 32 bits.
const MAX_RUN: Duration = Duration::from_secs(70 * 60);
/// Maximum duration of a closed run: it is the only bound of its number of requests.
const MAX_CLOSED_RUN: Duration = Duration::from_secs(120);

/// The options of the load.
#[derive(Args, Clone)]
pub(crate) struct LoadArgs {
    /// Requests per second.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=200_000))]
    pub rate: Option<u64>,
    /// Measured time: 90, 90s, 5m, 500ms.
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// Time before the measured time: the rate rises (open model) or the system warms up (closed loop).
    #[arg(long, value_parser = duration)]
    pub ramp: Option<Duration>,
    /// Exact size of the JSON text of each payload; or a range as 500-256000, in which the logarithm of the size is
    /// uniform, by the number of the event.
    #[arg(long, default_value = "600")]
    pub payload_bytes: PayloadBytes,
    /// Number of event types [default: 1; 4 in the scenario mixed].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub event_types: Option<u16>,
    /// Events of one request. More than one use the batch route, and are counted on the log instead of in the inbox
    /// [default: 1; 100 in the scenario batch].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub batch_events: Option<u16>,
    /// Number of organizations, which are used in turns.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub orgs: Option<u32>,
    /// How requests are shared between organizations [default: even; weighted in the scenario mixed].
    #[arg(long, value_enum)]
    pub shares: Option<Shares>,
    /// Reads a second beside the requests: pages 1, 10 and 1,000 of the inbox of the last organization, with and
    /// without a filter by type [default: none; 1,000 in the scenario mixed].
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=20_000))]
    pub reads: Option<u64>,
    /// Events that are put into that inbox before the run; in `all`, those of the largest inbox of S5 and of the view
    /// of S19 [default there: 1000000 and 2000000].
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=20_000_000))]
    pub preload_events: u64,
    /// Give every event its own dedup_id.
    #[arg(long)]
    pub keyed: bool,
    /// Connections: maximum number of requests in flight (open model).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: Option<u32>,
    /// Closed loop: each connection sends its next request after the reply to the last one.
    #[arg(long)]
    pub closed: bool,
    /// Requests in flight in the closed loop [default: 256].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub concurrency: Option<u32>,
    /// Timeout of a request, in milliseconds.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub timeout_ms: u64,
    /// Threads that drive the connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub client_threads: u8,
    /// Folder of the report [default: loadtests/reports/TIME-NAME].
    #[arg(long)]
    pub out: Option<PathBuf>,
}

impl LoadArgs {
    /// The load of `scenario` with the options of the command line.
    pub(crate) fn of_scenario(&self, scenario: Scenario) -> Result<Load, Failure> {
        self.load(scenario.shape())
    }

    /// The load of a bare loop.
    pub(crate) fn of_bare(&self) -> Result<Load, Failure> {
        let schedule = Schedule::new(10_000, Duration::from_secs(10), Duration::from_secs(60));
        self.load(Shape::new(schedule, 1_000, 256))
    }

    /// The load at each of `rates` per second; 0 is the closed loop. 5 s of ramp and 20 s, unless options say so.
    pub(crate) fn of_rates(&self, rates: &[u64]) -> Result<Vec<Load>, Failure> {
        let ramp = self.ramp.or(Some(Duration::from_secs(5)));
        let duration = self.duration.or(Some(Duration::from_secs(20)));
        let of_rate = |rate: &u64| match rate {
            0 => Self { closed: true, ramp, duration, ..self.clone() }.of_bare(),
            _ => Self { rate: Some(*rate), ramp, duration, ..self.clone() }.of_bare(),
        };
        rates.iter().map(of_rate).collect()
    }

    /// The load of webhooks.
    pub(crate) fn of_deliver(&self) -> Result<Load, Failure> {
        self.of_scenario(Scenario::Deliver)
    }

    fn load(&self, defaults: Shape) -> Result<Load, Failure> {
        let refuse = |text: String| Err(Failure::Usage(text));
        let reads_per_second = self.reads.unwrap_or(if self.closed { 0 } else { defaults.reads_per_second });
        if reads_per_second > 0 && (self.closed || self.batch_events.is_some_and(|events| events > 1)) {
            return refuse("--reads belongs to the open model with single events".to_owned());
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
            let schedule = self.schedule(defaults.schedule)?;
            let hold = schedule.hold();
            if schedule.ramp() + hold > MAX_RUN || schedule.total() > MAX_REQUESTS {
                return refuse(format!(
                    "a run has {MAX_REQUESTS} requests and lasts {} min at most",
                    MAX_RUN.as_secs() / 60
                ));
            }
            (Pace::Open(schedule), hold)
        };
        if measured.is_zero() {
            return refuse("--duration must not be zero".to_owned());
        }
        let option = if self.closed { Some(self.concurrency.unwrap_or(256)) } else { self.connections };
        let connections = option.map_or(defaults.connections, |n| n as usize);
        Ok(Load {
            pace,
            measured,
            connections,
            payload_bytes: self.payload_bytes,
            event_types: self.event_types.map_or(defaults.event_types, usize::from),
            batch_events: self.batch_events.map_or(defaults.batch_events, usize::from),
            organizations: self.orgs.map_or(defaults.organizations, |n| n as usize),
            shares: self.shares.unwrap_or(defaults.shares),
            keyed: self.keyed,
            timeout: Duration::from_millis(self.timeout_ms),
            client_threads: usize::from(self.client_threads).min(connections),
            stops: defaults.stops,
            reads_per_second,
            preload_events: self.preload_events,
        })
    }

    /// The schedule with the rate and times of the command line.
    fn schedule(&self, default: Schedule) -> Result<Schedule, Failure> {
        if self.rate.is_none() && self.ramp.is_none() && self.duration.is_none() {
            return Ok(default);
        }
        if !default.is_steady() {
            let text = "this scenario has several rates: --rate, --ramp and --duration do not fit";
            return Err(Failure::Usage(text.to_owned()));
        }
        let (ramp, hold) = (self.ramp.unwrap_or(default.ramp()), self.duration.unwrap_or(default.hold()));
        Ok(Schedule::new(self.rate.unwrap_or(default.peak()), ramp, hold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::run_args;

    #[test]
    fn loads_out_of_bounds_are_wrong_usage() {
        for line in [
            "bench run --duration 200m",
            "bench run --rate 200000 --duration 30m",
            "bench run --scenario mixed --batch-events 5",
            "bench run --closed --reads 5",
            "bench run --closed --rate 5",
            "bench run --concurrency 5",
            "bench run --duration 0",
            "bench run --scenario spike --rate 5",
        ] {
            let arguments = run_args(line);
            assert!(matches!(arguments.load.of_scenario(arguments.scenario), Err(Failure::Usage(_))), "{line}");
        }
    }
}
