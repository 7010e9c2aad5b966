//! `triggers view`: rebuilds the inbox view from the log, or replays a part of the log into it.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kafka::KafkaConfig;
use kafka::config::KafkaArgs;
use materializer::rebuild::{self, RebuildConfig};
use runtime::config::PostgresArgs;
use runtime::postgres;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::print;
use super::progress::ProgressDisplay;
use super::time_argument::parse_time;
use crate::local_system::LocalSystemArgs;
use crate::roles::materializer::ViewArgs;

/// Options of `triggers view`.
#[derive(Args)]
pub(crate) struct ViewCommandArgs {
    #[command(subcommand)]
    action: ViewAction,
}

#[derive(Subcommand)]
enum ViewAction {
    /// Build a second view, compare it with the live one, and switch to it. Repeat the command to continue an
    /// interrupted rebuild
    Rebuild {
        #[command(flatten)]
        system: SystemArgs,
        /// Copy events accepted before this time (RFC 3339) from the live view instead of reading them from the log;
        /// default: read the whole log
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        from: Option<OffsetDateTime>,
        /// Switch even if the views differ, because the live one is wrong
        #[arg(long)]
        accept_differences: bool,
        /// Only compare the views; keep the live one
        #[arg(long, conflicts_with = "accept_differences")]
        dry_run: bool,
        /// Restart an interrupted rebuild instead of continuing it
        #[arg(long)]
        restart: bool,
    },
    /// Read a part of the log into the live view again; it can be repeated, rows are not duplicated
    Replay {
        #[command(flatten)]
        system: SystemArgs,
        /// Read records appended at or after this time (RFC 3339)
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        from: OffsetDateTime,
        /// Read records appended before this time (RFC 3339); default: up to the position of the view
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        to: Option<OffsetDateTime>,
    },
    /// Delete the tables that an unfinished rebuild left
    Abandon {
        #[command(flatten)]
        system: SystemArgs,
    },
}

#[derive(Args)]
struct SystemArgs {
    #[command(flatten)]
    local: LocalSystemArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
    #[command(flatten)]
    view: ViewArgs,
}

impl SystemArgs {
    async fn connect(&self) -> Result<(KafkaConfig, PgPool)> {
        let kafka = self.local.kafka(&self.kafka)?;
        let pool = postgres::connect(&self.local.postgres(&self.postgres)?).context("DATABASE_URL")?;
        postgres::check_connection(&pool).await.map_err(anyhow::Error::msg)?;
        Ok((kafka, pool))
    }
}

pub(super) async fn run(args: ViewCommandArgs) -> Result<()> {
    match args.action {
        ViewAction::Rebuild { system, from, accept_differences, dry_run, restart } => {
            let (kafka, pool) = system.connect().await?;
            let retention_days = system.view.projector().retention_days;
            let config = RebuildConfig { from, retention_days, accept_differences, restart, dry_run };
            let bar = ProgressDisplay::new("records read")?;
            let done = rebuild::rebuild(pool, kafka, config, |now| bar.show(now.done, now.total)).await;
            bar.finish();
            let done = done?;
            if done.resumed {
                print::line("continued an unfinished rebuild; --restart would discard it")?;
            }
            print::line(&format!(
                "{} records read, {} rows copied from the live view, which was locked for {:.1} s",
                done.records,
                done.carried,
                done.held.as_secs_f64()
            ))?;
            done.differences.iter().try_for_each(|difference| print::line(&difference.to_string()))?;
            if done.switched {
                return print::line("the rebuilt view is live");
            }
            match done.differences.len() {
                0 => print::line("the views are equal; the live view is kept"),
                count => bail!(
                    "{count} differences; the live view is kept. To switch in spite of them: \
                     triggers view rebuild --accept-differences"
                ),
            }
        }
        ViewAction::Replay { system, from, to } => {
            let (kafka, pool) = system.connect().await?;
            let retention_days = system.view.projector().retention_days;
            let bar = ProgressDisplay::new("records read")?;
            let done =
                rebuild::replay(pool, kafka, (from, to), retention_days, |now| bar.show(now.done, now.total)).await;
            bar.finish();
            let done = done?;
            print::line(&format!("{} records read", done.records))?;
            if done.cut_short {
                print::line(
                    "some partitions of the log start after --from; older records are deleted and were not read",
                )?;
            }
            Ok(())
        }
        ViewAction::Abandon { system } => {
            let (_, pool) = system.connect().await?;
            rebuild::abandon(&pool).await?;
            print::line("no tables of a rebuild are left")
        }
    }
}
