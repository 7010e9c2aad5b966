//! The scenarios of `bench run` that are more than one load: they call the code of the command or step that measures
//! the same.

use clap::Parser;
use loadkit::Failure;

use crate::cli::{AllArgs, Cli, Command, DeliverArgs, RunArgs};
use crate::connections::{Connections, MOST_GROWTH_MIB, MOST_IDLE_KIB, Sizes};
use crate::product;
use crate::report::{self, write_json};
use crate::scenario::{Check, Scenario};
use crate::target::Target;

/// Idle connections of the scenario `connections`.
const IDLE_CONNECTIONS: usize = 10_000;

/// The command of a scenario.
pub(crate) enum Named {
    Deliver(DeliverArgs),
    All(AllArgs),
}

/// The command that runs the scenario of `arguments`, with their system and load; none if `run` does.
pub(crate) fn command(arguments: &RunArgs) -> Result<Option<Named>, Failure> {
    let line: &[&str] = match arguments.scenario {
        Scenario::Deliver => &["bench", "deliver", "--rounds", "1"],
        Scenario::Catchup => &["bench", "all", "--steps", "s8", "--rounds", "1"],
        _ => return Ok(None),
    };
    let parsed = Cli::try_parse_from(line).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(match parsed.command {
        Command::Deliver(deliver) => {
            let (system, load) = (arguments.system.clone(), arguments.load.clone());
            Some(Named::Deliver(DeliverArgs { system, load, ..deliver }))
        }
        Command::All(all) => Some(Named::All(AllArgs { load: arguments.load.clone(), ..all })),
        _ => None,
    })
}

/// The scenario `connections`. Returns whether everything was answered and no memory grew too much.
pub(crate) async fn connections(arguments: RunArgs) -> Result<bool, Failure> {
    let target = Target::find(&arguments.system)?;
    let components = product::components(&target, &arguments.system.pids);
    let server = components.into_iter().find(|component| matches!(component.name.as_str(), "ingest" | "triggers"));
    let server = server
        .ok_or_else(|| Failure::Usage("the process of ingest was not found: name it by --pid ingest=PID".to_owned()))?;
    let connections = Connections::new(&target, server, Sizes::new(IDLE_CONNECTIONS)).await?;
    let answered = connections.answered().await?;
    println!("{answered:?}");
    let all = |name, count: usize, of: usize| Check {
        name,
        threshold: format!("all {of}"),
        found: count.to_string(),
        passed: count == of,
    };
    let growth = |name, found| Check::at_most(name, MOST_GROWTH_MIB, Some(found), "MiB");
    let checks = [
        all("requests at once, answered", answered.requests, answered.at_once),
        all("long polls, answered", answered.polls, answered.at_once),
        all("idle connections, answered again", answered.idle_again, answered.idle),
        Check::at_most("memory of an idle connection", MOST_IDLE_KIB, Some(answered.idle_kib()), "KiB"),
        growth("memory, half-sent bodies", connections.half_sent().await?),
        growth("memory, slow readers", connections.slow_readers().await?),
    ];
    for check in &checks {
        let verdict = if check.passed { "ok    " } else { "MISSED" };
        println!("  {verdict} {}: {} (threshold: {})", check.name, check.found, check.threshold);
    }
    let folder = report::folder(arguments.load.out.as_deref(), "connections");
    write_json(&folder, &checks)?;
    println!("report in {}", folder.display());
    Ok(checks.iter().all(|check| check.passed))
}
