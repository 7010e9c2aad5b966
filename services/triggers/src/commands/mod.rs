//! The command line for operators and developers. Each command's own file says what it does; here is only which there
//! are.

mod ack;
mod dlq;
mod doctor;
mod endpoint;
mod env;
mod inbox;
mod key;
mod lag;
mod migrate;
mod org;
mod page;
mod positions;
mod print;
mod progress;
mod send;
mod tail;
mod topics;
mod view;

use anyhow::Result;
use clap::Subcommand;

use crate::client::TargetArgs;

/// A command against a running system, or its Kafka and PostgreSQL.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Organizations (operator)
    Org(Targeted<org::OrgArgs>),
    /// API keys
    Key(Targeted<key::KeyArgs>),
    /// Webhook endpoints
    Endpoint(Targeted<endpoint::EndpointArgs>),
    /// Send one event, or many from a file of JSON lines
    Send(Targeted<send::SendArgs>),
    /// Print events as they arrive
    Tail(Targeted<tail::TailArgs>),
    /// Print a page of the inbox
    Inbox(Targeted<inbox::InboxArgs>),
    /// Acknowledge events
    Ack(Targeted<ack::AckArgs>),
    /// How far the consumers are behind the log
    Lag(lag::LagArgs),
    /// Where the consumers are on the log; repairing a position, and skipping what cannot be read
    Positions(positions::PositionsArgs),
    /// Compare the topics with the manifest, or repair them
    Topics(topics::TopicsArgs),
    /// Build the inbox view again from the log, or read a part of the log into it once more
    View(view::ViewCommandArgs),
    /// Bring the database to this version's schema
    Migrate(migrate::MigrateArgs),
    /// Dead letters: list them, look at one, write records to their topics again
    Dlq(dlq::DlqArgs),
    /// Check tools, Kafka, PostgreSQL, topics and versions, and say what to do
    Doctor(doctor::DoctorArgs),
    /// Print shell lines that export URL and key of the local system
    Env(Targeted<env::EnvArgs>),
}

/// A command's own flags, and where to send it.
#[derive(clap::Args)]
pub(crate) struct Targeted<A: clap::Args> {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    args: A,
}

/// Runs one command to its end.
pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Org(Targeted { target, args }) => org::run(&target.client()?, args).await,
        Command::Key(Targeted { target, args }) => key::run(&target.client()?, args).await,
        Command::Endpoint(Targeted { target, args }) => endpoint::run(&target.client()?, args).await,
        Command::Send(Targeted { target, args }) => send::run(&target.client()?, args).await,
        Command::Tail(Targeted { target, args }) => tail::run(&target.client()?, args).await,
        Command::Inbox(Targeted { target, args }) => inbox::run(&target.client()?, args).await,
        Command::Ack(Targeted { target, args }) => ack::run(&target.client()?, args).await,
        Command::Lag(args) => lag::run(args).await,
        Command::Positions(args) => positions::run(args).await,
        Command::Topics(args) => topics::run(args).await,
        Command::View(args) => view::run(args).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Dlq(args) => dlq::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Env(Targeted { target, args }) => env::run(&target, args),
    }
}
