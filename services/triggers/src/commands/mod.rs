//! The commands for operators and developers, one file each.

mod ack;
mod audit;
mod deliveries;
mod delivery;
mod dlq;
mod doctor;
mod endpoint;
mod env;
mod event;
mod inbox;
mod inbox_page;
mod key;
mod lag;
mod migrate;
mod org;
mod positions;
mod print;
mod progress;
mod replay;
mod send;
mod tail;
mod time_argument;
mod topics;
mod view;

use anyhow::Result;
use clap::Subcommand;

use crate::client::TargetArgs;

/// A command that uses the API of a running system, or its Kafka and PostgreSQL.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create, list, show, change and erase organizations (operator)
    Org(Targeted<org::OrgArgs>),
    /// Create, list, show, change, rotate and revoke API keys
    Key(Targeted<key::KeyArgs>),
    /// List who changed API keys, endpoints and the organization, newest first
    Audit(Targeted<audit::AuditArgs>),
    /// Create, list, show, test and delete webhook endpoints, and see their deliveries
    Endpoint(Targeted<endpoint::EndpointArgs>),
    /// Show a delivery with its attempts, or retry it
    Delivery(Targeted<delivery::DeliveryArgs>),
    /// Show how far a replay to an endpoint is, or cancel it
    Replay(Targeted<replay::ReplayArgs>),
    /// See where an event went: its deliveries, and why it did or did not arrive
    Event(Targeted<event::EventArgs>),
    /// Send an event, or many from a file of JSON lines
    Send(Targeted<send::SendArgs>),
    /// Print events as they arrive
    Tail(Targeted<tail::TailArgs>),
    /// Print a page of the inbox
    Inbox(Targeted<inbox::InboxArgs>),
    /// Acknowledge events
    Ack(Targeted<ack::AckArgs>),
    /// Print the lag of the consumers
    Lag(lag::LagArgs),
    /// List the positions of the consumers, repair them, or skip records that cannot be read
    Positions(positions::PositionsArgs),
    /// Compare the topics with the manifest, or repair the topics
    Topics(topics::TopicsArgs),
    /// Rebuild the inbox view from the log, or replay a part of the log into it
    View(view::ViewCommandArgs),
    /// Migrate the database to the schema of this binary
    Migrate(migrate::MigrateArgs),
    /// List and show dead letters, or write their records to their topics again
    Dlq(dlq::DlqArgs),
    /// Check tools, Kafka, PostgreSQL, topics, schema and positions, and print what to do
    Doctor(doctor::DoctorArgs),
    /// Print shell lines that export URL and key of the local system
    Env(Targeted<env::EnvArgs>),
}

/// The options of a command, and of the system that it is sent to.
#[derive(clap::Args)]
pub(crate) struct Targeted<A: clap::Args> {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    args: A,
}

/// Runs one command.
pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Org(Targeted { target, args }) => org::run(&target.client()?, args).await,
        Command::Key(Targeted { target, args }) => key::run(&target.client()?, args).await,
        Command::Audit(Targeted { target, args }) => audit::run(&target.client()?, args).await,
        Command::Endpoint(Targeted { target, args }) => endpoint::run(&target.client()?, args).await,
        Command::Delivery(Targeted { target, args }) => delivery::run(&target.client()?, args).await,
        Command::Replay(Targeted { target, args }) => replay::run(&target.client()?, args).await,
        Command::Event(Targeted { target, args }) => event::run(&target.client()?, args).await,
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
