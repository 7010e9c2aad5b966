//! `triggers migrate`: migrates the database to the schema of this binary. It can run repeatedly and concurrently.

use anyhow::{Context, Result};
use clap::Args;
use runtime::config::PostgresArgs;
use runtime::postgres;

use super::print;
use crate::local_system::LocalSystemArgs;

/// Options of `triggers migrate`.
#[derive(Args)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    local: LocalSystemArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
}

pub(super) async fn run(args: MigrateArgs) -> Result<()> {
    let pool = postgres::connect(&args.local.postgres(&args.postgres)?).context("DATABASE_URL")?;
    postgres::check_connection(&pool).await.map_err(anyhow::Error::msg)?;
    postgres::migrate(&pool).await.with_context(|| format!("cannot migrate {}", postgres::describe_database(&pool)))?;
    print::line("the database has the schema of this binary")
}
