//! The `triggers` binary: the roles `ingest`, `materializer` and `dispatcher`; `up`, which runs all of them with its
//! own Kafka and PostgreSQL; and the commands for operators and developers.
//!
//! This crate parses the command line, connects the parts of a role, and implements the commands as clients of a
//! running system. The roles themselves are in `ingest`, `materializer`, `dispatcher` and `tenancy`.

#[cfg(test)]
mod api_reference;
mod client;
mod commands;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod flags;
mod local_system;
mod roles;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    Up(Box<up::UpArgs>),
    /// Serve the HTTP API
    Ingest(Box<roles::ingest::IngestArgs>),
    /// Build the inbox from the log
    Materializer(roles::materializer::MaterializerArgs),
    /// Deliver webhooks
    Dispatcher(Box<roles::dispatcher::DispatcherArgs>),
    #[command(flatten)]
    Other(commands::Command),
}

fn main() -> ExitCode {
    // clap exits with 2 on wrong usage and with 0 on --help.
    let cli = Cli::parse();
    // reqwest is built without a crypto provider. A second call in one process is harmless.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("triggers: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up::run(*args).await,
            Command::Ingest(args) => roles::ingest::main(*args).await,
            Command::Materializer(args) => roles::materializer::main(args).await,
            Command::Dispatcher(args) => roles::dispatcher::main(*args).await,
            Command::Other(command) => commands::run(command).await,
        }
    });
    // Tasks that still run (a blocking DNS lookup, a client that hangs) must not keep the process alive.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("triggers: {}", message_of(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes in one line. A cause that the text already contains is left out.
fn message_of(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text {
        text if text.is_empty() => cause,
        text if text.contains(&cause) => text,
        text => format!("{text}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_message_does_not_repeat_a_cause() {
        let error = anyhow::anyhow!("no such file").context("cannot read x: no such file").context("DATABASE_URL");
        assert_eq!(message_of(&error), "DATABASE_URL: cannot read x: no such file");
    }
}
