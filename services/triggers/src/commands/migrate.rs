//! `triggers migrate`: brings the database to this version's schema. Safe to run again, and from several places at
//! once.

use anyhow::{Context, Result};
use clap::Args;
use platform::config::PostgresArgs;
use platform::postgres;

use super::print;
use crate::local::LocalArgs;

/// Flags of `triggers migrate`.
#[derive(Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    local: LocalArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
}

pub(super) async fn run(args: MigrateArgs) -> Result<()> {
    let pool = postgres::connect(&args.local.postgres(&args.postgres)?).context("DATABASE_URL")?;
    postgres::reach(&pool).await.map_err(anyhow::Error::msg)?;
    postgres::migrate(&pool).await.with_context(|| format!("{} could not be migrated", postgres::place(&pool)))?;
    print::line("the database has this version's schema")
}
