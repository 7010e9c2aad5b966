//! What changes with the number of instances, partitions and organizations, with their shares, and with the size of the
//! payload: one of them at a time, everything running, in the closed loop.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use loadkit::{Failure, Role, RunEnvironment};
use serde::Serialize;

use crate::cost::Side;
use crate::report;
use crate::scenario::{Load, Pace};
use crate::turns::{TurnOptions, Turns};
use crate::variation::{PayloadBytes, Shares};

/// From this size on a run is short: the disk has to hold what it stores several times.
const LARGE_PAYLOAD_BYTES: usize = 50_000;
const LARGE_PAYLOAD_TIME: Duration = Duration::from_secs(5);
/// Requests in flight with large payloads.
const LARGE_PAYLOAD_CONNECTIONS: usize = 32;

/// What is varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dimension {
    /// 1, 2 and 4 processes of each role.
    Instances,
    /// 6, 12, 24 and 48 partitions of the topic of events.
    Partitions,
    /// 1 to 10,000 organizations; 100,000 only by --orgs: making them takes minutes.
    Organizations,
    /// Equal shares, one organization with half of the requests, and about 1 / n for the n-th.
    Shares,
    /// Payloads of 500 bytes to 256 KB.
    Payload,
}

#[derive(Serialize)]
struct ScaleReport {
    environment: RunEnvironment,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    dimension: Dimension,
    value: String,
    side: Side,
}

/// One value of a dimension.
struct Case {
    value: String,
    load: Load,
    instances: BTreeMap<Role, usize>,
    partitions: Option<u32>,
}

/// Runs the product for each value of these dimensions, prints a table and writes the report into `folder`. Returns
/// whether every run passed its checks.
pub(crate) async fn run(
    options: &TurnOptions,
    dimensions: &[Dimension],
    load: Load,
    folder: &Path,
) -> Result<bool, Failure> {
    let environment = RunEnvironment::detect();
    let (mut rows, mut passed) = (Vec::new(), true);
    println!("{}", header());
    for dimension in dimensions {
        passed &= of_dimension(options, *dimension, load, folder, &mut rows).await?;
    }
    report::write_json(folder, &ScaleReport { environment, rows })?;
    println!("report in {}", folder.display());
    Ok(passed)
}

/// All values of one dimension, on one system unless each needs its own.
async fn of_dimension(
    options: &TurnOptions,
    dimension: Dimension,
    load: Load,
    folder: &Path,
    rows: &mut Vec<Row>,
) -> Result<bool, Failure> {
    let mut passed = true;
    let mut running: Option<Turns<'_>> = None;
    for case in cases(dimension, load) {
        let settings = case.partitions.map(|count| ("TOPIC_PARTITIONS".to_owned(), count.to_string()));
        let mut turns = match running.take() {
            Some(turns) if settings.is_none() => turns,
            earlier => {
                if let Some(earlier) = earlier {
                    earlier.system.stop().await;
                }
                Turns::start_with(options, settings.as_slice(), &load, folder).await?
            }
        };
        turns.system.set_instances(case.instances).await?;
        let name = format!("{dimension:?}-{}", case.value).to_lowercase().replace(' ', "-");
        let measured = turns.run(&name, &Role::ALL, None, case.load).await;
        passed &= turns.all_passed;
        running = Some(turns);
        let row = Row { dimension, value: case.value, side: Side::new(measured?.0) };
        println!("{}", line(&row));
        rows.push(row);
    }
    if let Some(turns) = running {
        turns.system.stop().await;
    }
    Ok(passed)
}

fn cases(dimension: Dimension, load: Load) -> Vec<Case> {
    let case = |value: String, load: Load| Case { value, load, instances: BTreeMap::new(), partitions: None };
    match dimension {
        Dimension::Instances => {
            let of_role = |role: Role| {
                [2, 4].map(move |count| Case {
                    instances: BTreeMap::from([(role, count)]),
                    ..case(format!("{count} {}", role.name()), load)
                })
            };
            std::iter::once(case("1 of each".to_owned(), load)).chain(Role::ALL.into_iter().flat_map(of_role)).collect()
        }
        Dimension::Partitions => [6, 12, 24, 48]
            .map(|count| Case { partitions: Some(count), ..case(format!("{count} partitions"), load) })
            .into(),
        Dimension::Organizations => {
            let mut counts = vec![1, 100, 1_000, 10_000];
            counts.push(load.organizations);
            counts.sort_unstable();
            counts.dedup();
            let of_count = |organizations| case(format!("{organizations}"), Load { organizations, ..load });
            counts.into_iter().map(of_count).collect()
        }
        Dimension::Shares => [("even", Shares::Even), ("half by one", Shares::Half), ("1 / n", Shares::Zipf)]
            .map(|(name, shares)| case(name.to_owned(), Load { shares, ..load }))
            .into(),
        Dimension::Payload => {
            [500, 5_000, 50_000, 256_000].map(|bytes| case(format!("{bytes} bytes"), with_payload(load, bytes))).into()
        }
    }
}

fn with_payload(load: Load, bytes: usize) -> Load {
    let load = Load { payload_bytes: PayloadBytes::exactly(bytes), ..load };
    if bytes < LARGE_PAYLOAD_BYTES {
        return load;
    }
    let measured = load.measured.min(LARGE_PAYLOAD_TIME);
    let pace = Pace::Closed { warm_up: Duration::from_secs(1), measured };
    Load { pace, measured, connections: load.connections.min(LARGE_PAYLOAD_CONNECTIONS), ..load }
}

fn header() -> String {
    format!(
        "{:<18}{:>10}{:>9}{:>9}{:>8}{:>8}{:>8}{:>8}{:>8}{:>9}{:>9}",
        "", "events/s", "MB/s", "us", "ingest", "mater.", "disp.", "kafka", "postgr.", "p95 ms", "visible"
    )
}

fn line(row: &Row) -> String {
    let side = &row.side;
    let cpu = |name: &str| side.cpu_us.get(name).map_or(f64::NAN, |spread| spread.median);
    let rate = side.accepted_per_second.median;
    format!(
        "{:<18}{:>10.0}{:>9.1}{:>9.1}{:>8.1}{:>8.1}{:>8.1}{:>8.1}{:>8.1}{:>9.1}{:>9.1}",
        row.value,
        rate,
        rate * side.payload_bytes() as f64 / 1_000_000.0,
        side.total_us.median,
        cpu("ingest"),
        cpu("materializer"),
        cpu("dispatcher"),
        cpu("kafka"),
        cpu("postgres"),
        side.p95_ms.median,
        side.visible_p95_ms.map_or(f64::NAN, |seen| seen.median),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, LoadArgs};

    fn load() -> Load {
        match Cli::try_parse_from(["bench", "scale"]).map(|cli| cli.command) {
            Ok(Command::Scale(arguments)) => LoadArgs { closed: true, ..arguments.load }.of_bare().ok().unwrap(),
            _ => panic!("not the command scale"),
        }
    }

    #[test]
    fn one_thing_is_varied_at_a_time() {
        let load = load();
        for dimension in Dimension::value_variants() {
            let cases = cases(*dimension, load);
            assert!(cases.len() >= 3, "{dimension:?}");
            for case in &cases {
                let varied = [
                    !case.instances.is_empty(),
                    case.partitions.is_some(),
                    case.load.organizations != load.organizations,
                    case.load.shares != load.shares,
                    case.load.payload_bytes != load.payload_bytes,
                ];
                assert!(varied.iter().filter(|varied| **varied).count() <= 1, "{}", case.value);
            }
        }
    }

    #[test]
    fn large_payloads_run_for_a_short_time() {
        let large = with_payload(load(), 256_000);
        assert!(large.measured <= LARGE_PAYLOAD_TIME && large.connections <= LARGE_PAYLOAD_CONNECTIONS);
        let small = with_payload(load(), 500);
        assert_eq!(small.measured, load().measured);
    }
}
