//! `triggers view`: building the inbox view again from the log, and reading a part of the log into it once more.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kafka::KafkaConfig;
use kafka::config::KafkaArgs;
use materializer::rebuild::{self, RebuildConfig};
use runtime::config::PostgresArgs;
use runtime::postgres;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::print;
use super::progress::Progress;
use crate::local::LocalArgs;
use crate::roles::materializer::ViewArgs;

/// Flags of `triggers view`.
#[derive(Args)]
pub(crate) struct ViewCommandArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build a second view beside the live one, compare them, and switch over. Run it again to go on after an
    /// interruption
    Rebuild {
        #[command(flatten)]
        system: System,
        /// Copy what was accepted before this time from the live view (RFC 3339); without it, everything that the log
        /// still has is read
        #[arg(long, value_name = "TIME", value_parser = time)]
        from: Option<OffsetDateTime>,
        /// Switch over although the two differ, because the live one is wrong
        #[arg(long)]
        accept_differences: bool,
        /// Compare only; the live view stays
        #[arg(long, conflicts_with = "accept_differences")]
        dry_run: bool,
        /// Start over instead of continuing an interrupted rebuild
        #[arg(long)]
        restart: bool,
    },
    /// Read a part of the log into the live view once more; harmless, however often
    Replay {
        #[command(flatten)]
        system: System,
        /// What was appended from this time on (RFC 3339)
        #[arg(long, value_name = "TIME", value_parser = time)]
        from: OffsetDateTime,
        /// and before this one; without it, up to where the view stands
        #[arg(long, value_name = "TIME", value_parser = time)]
        to: Option<OffsetDateTime>,
    },
    /// Take away what an unfinished rebuild has left
    Abandon {
        #[command(flatten)]
        system: System,
    },
}

#[derive(Args)]
struct System {
    #[command(flatten)]
    local: LocalArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
    #[command(flatten)]
    view: ViewArgs,
}

impl System {
    async fn connect(&self) -> Result<(KafkaConfig, PgPool)> {
        let kafka = self.local.kafka(&self.kafka)?;
        let pool = postgres::connect(&self.local.postgres(&self.postgres)?).context("DATABASE_URL")?;
        postgres::check_connection(&pool).await.map_err(anyhow::Error::msg)?;
        Ok((kafka, pool))
    }
}

pub(super) async fn run(args: ViewCommandArgs) -> Result<()> {
    match args.action {
        Action::Rebuild { system, from, accept_differences, dry_run, restart } => {
            let (kafka, pool) = system.connect().await?;
            let retention_days = system.view.projector().retention_days;
            let config = RebuildConfig { from, retention_days, accept_differences, restart, dry_run };
            let bar = Progress::new("records read")?;
            let done = rebuild::rebuild(pool, kafka, config, |now| bar.show(now.done, now.total)).await;
            bar.finish();
            let done = done?;
            if done.resumed {
                print::line("continued an unfinished rebuild; --restart starts over")?;
            }
            print::line(&format!(
                "{} records read, {} rows carried over; the live view was held for {:.1} s",
                done.records,
                done.carried,
                done.held.as_secs_f64()
            ))?;
            done.differences.iter().try_for_each(|difference| print::line(&difference.to_string()))?;
            if done.switched {
                return print::line("the rebuilt view is live");
            }
            match done.differences.len() {
                0 => print::line("the two are equal; the live view stays"),
                count => bail!(
                    "{count} differences; the live view stays. To switch over nevertheless: triggers view rebuild --accept-differences"
                ),
            }
        }
        Action::Replay { system, from, to } => {
            let (kafka, pool) = system.connect().await?;
            let retention_days = system.view.projector().retention_days;
            let bar = Progress::new("records read")?;
            let done =
                rebuild::replay(pool, kafka, (from, to), retention_days, |now| bar.show(now.done, now.total)).await;
            bar.finish();
            let done = done?;
            print::line(&format!("{} records read", done.records))?;
            if done.cut_short {
                print::line(
                    "the log does not reach back to that time in every partition; what it no longer has was not read",
                )?;
            }
            Ok(())
        }
        Action::Abandon { system } => {
            let (_, pool) = system.connect().await?;
            rebuild::abandon(&pool).await?;
            print::line("nothing of a rebuild is left")
        }
    }
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "not a time like 2026-11-21T09:00:00Z".to_owned())
}
