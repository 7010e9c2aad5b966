//! `triggers migrate`: brings the database to this version's schema. Safe to run again, and from several places at
//! once.

use anyhow::{Context, Result};
use clap::Args;
use runtime::config::PostgresArgs;
use runtime::postgres;

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
    postgres::check_connection(&pool).await.map_err(anyhow::Error::msg)?;
    postgres::migrate(&pool)
        .await
        .with_context(|| format!("{} could not be migrated", postgres::describe_database(&pool)))?;
    print::line("the database has this version's schema")
}
