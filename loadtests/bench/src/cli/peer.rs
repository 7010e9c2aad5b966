//! The options of `peer`, and the loads that they give.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use loadkit::{Failure, duration};

use super::LoadArgs;
use crate::request::Route;
use crate::scenario::Load;

/// A system that is measured for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerName {
    /// Apache Camel, HTTP to Kafka.
    Camel,
    /// Apache Camel, Kafka to HTTP.
    CamelDeliver,
    /// Durable Streams, HTTP to a log of its own.
    DurableStreams,
}

impl PeerName {
    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Camel => "camel",
            Self::CamelDeliver => "camel-deliver",
            Self::DurableStreams => "durable-streams",
        }
    }

    /// The folder of its program, and the program's argument.
    pub(crate) fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Camel => ("camel", "accept"),
            Self::CamelDeliver => ("camel", "deliver"),
            Self::DurableStreams => ("durable-streams", "accept"),
        }
    }

    /// Whether it uses Kafka.
    pub(crate) fn needs_kafka(self) -> bool {
        !matches!(self, Self::DurableStreams)
    }

    /// Where events are posted.
    pub(crate) fn route(self) -> Route {
        match self {
            Self::Camel | Self::CamelDeliver => Route { path: "/v1/events", any_success: false },
            // It gives no ids. An organization has a stream.
            Self::DurableStreams => Route { path: "/events/{organization}", any_success: true },
        }
    }
}

/// `peer`.
#[derive(Args)]
pub(crate) struct PeerArgs {
    /// The system.
    #[arg(value_enum)]
    pub name: PeerName,
    /// Folder of the peers; the program of each is FOLDER/NAME/run.
    #[arg(long, default_value = "loadtests/peers")]
    pub peers: PathBuf,
    /// Bootstrap servers [default: from dev.json].
    #[arg(long)]
    pub brokers: Option<String>,
    /// Data folder of `triggers up`.
    #[arg(long, default_value = ".triggers")]
    pub data_dir: PathBuf,
    /// Closed load at the start that is in no report: a JVM is slow at first.
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub warm_up: Duration,
    /// Records that `camel-deliver` delivers.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(10..=5_000_000))]
    pub records: u32,
    /// The load. First open, then closed, each with its options; with --closed only closed.
    #[command(flatten)]
    pub load: LoadArgs,
}

impl PeerArgs {
    /// The loads with their names.
    pub(crate) fn loads(&self) -> Result<Vec<(&'static str, Load)>, Failure> {
        if self.load.batch_events.is_some() || self.load.keyed {
            return Err(Failure::Usage("peers have neither batches nor a dedup_id".to_owned()));
        }
        let open = LoadArgs { concurrency: None, ..self.load.clone() };
        let closed = LoadArgs { closed: true, rate: None, connections: None, ..self.load.clone() };
        let mut loads = Vec::new();
        if !self.load.closed {
            loads.push(("open", open.of_bare()?));
        }
        loads.push(("closed", closed.of_bare()?));
        Ok(loads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::scenario::Pace;
    use clap::Parser;

    fn loads(line: &str) -> Result<Vec<(&'static str, Load)>, Failure> {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Peer(arguments) => arguments.loads(),
            _ => panic!("not a peer"),
        }
    }

    #[test]
    fn a_peer_has_an_open_and_a_closed_load() {
        let both = loads("bench peer camel --rate 500 --connections 20 --concurrency 30").unwrap();
        let [("open", open), ("closed", closed)] = both.as_slice() else { panic!("{both:?}") };
        let Pace::Open(schedule) = open.pace else { panic!("{open:?}") };
        assert_eq!((schedule.peak(), open.connections), (500, 20));
        assert!(matches!(closed.pace, Pace::Closed { .. }));
        assert_eq!(closed.connections, 30);
        assert_eq!(loads("bench peer camel --closed").unwrap().len(), 1);
    }

    #[test]
    fn what_no_peer_has_is_wrong_usage() {
        for line in ["bench peer camel --keyed", "bench peer durable-streams --batch-events 2"] {
            assert!(matches!(loads(line), Err(Failure::Usage(_))), "{line}");
        }
    }
}
