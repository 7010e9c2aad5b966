//! The `triggers` binary: the roles `ingest`, `materializer` and `dispatcher`, `up` (all of them with a Kafka and a PostgreSQL of its own),
//! and the command line for operators and developers.
//!
//! Lives here: reading the command line, putting the slices together, and talking to a running system as any client would. Does not live
//! here: anything a slice does.

mod client;
mod commands;
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
            // One sentence: the causes, joined.
            eprintln!("triggers: {error:#}");
            ExitCode::FAILURE
        }
    }
}
