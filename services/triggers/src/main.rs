//! The `triggers` binary: the roles `ingest`, `materializer` and `dispatcher`, `up` (all of them with a Kafka and a
//! PostgreSQL of its own), and the command line for operators and developers.
//!
//! Lives here: reading the command line, putting the slices together, and talking to a running system as any client
//! would. Does not live here: anything a slice does.

mod client;
mod commands;
#[cfg(test)]
mod documents;
mod local;
mod roles;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Events in, once, whatever fails in between.
#[derive(Parser)]
#[command(name = "triggers", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything on this machine: Kafka, PostgreSQL and all roles, for development
    Up(up::UpArgs),
    /// Serve the HTTP API
    Ingest(roles::ingest::IngestArgs),
    /// Build the inbox from the log
    Materializer(roles::materializer::MaterializerArgs),
    /// Deliver webhooks
    Dispatcher(roles::dispatcher::DispatcherArgs),
    #[command(flatten)]
    Other(commands::Command),
}

fn main() -> ExitCode {
    // clap ends with 2 on wrong usage by itself, 0 on --help.
    let cli = Cli::parse();
    // reqwest is built without a provider of its own choice; a second call in one process is harmless.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("triggers: no runtime could be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up::run(args).await,
            Command::Ingest(args) => roles::ingest::main(args).await,
            Command::Materializer(args) => roles::materializer::main(args).await,
            Command::Dispatcher(args) => roles::dispatcher::main(args).await,
            Command::Other(command) => commands::run(command).await,
        }
    });
    // Tasks that still run (a blocking look-up, a client that hangs) must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("triggers: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes as one sentence; many an error repeats its cause's words, which are then not said twice.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said {
        said if said.is_empty() => cause,
        said if said.contains(&cause) => said,
        said => format!("{said}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_was_said_already_is_not_said_again() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file").context("DATABASE_URL");
        assert_eq!(sentence(&error), "DATABASE_URL: cannot read x: no such file");
    }
}
