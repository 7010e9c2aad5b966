//! Checks the schema of the database at the start of a role.

use anyhow::{Context, Result};
use runtime::health::Component;
use runtime::lifecycle::Supervisor;
use runtime::postgres::{self, SchemaError};
use runtime::retry::Backoff;
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

/// Name of the health component: healthy when the database has the schema of this binary.
const COMPONENT: &str = "schema";

/// Waits until the database has answered that it has the schema of this binary, or until the shutdown: a role that
/// consumed before would write to another schema.
///
/// # Errors
/// When the schema is another one, with what to do.
pub(super) async fn wait_for_schema(supervisor: &Supervisor, pool: &PgPool) -> Result<()> {
    let component = supervisor.health().component(COMPONENT);
    check_until_answered(pool, &component, supervisor.shutdown()).await
}

/// As [`wait_for_schema`], for a role that serves meanwhile: it is not ready before the check. If PostgreSQL answers,
/// the check is done before this returns.
pub(super) async fn check_schema(supervisor: &mut Supervisor, pool: PgPool) -> Result<()> {
    let (component, shutdown) = (supervisor.health().component(COMPONENT), supervisor.shutdown());
    let is_checked = check(&pool, &component).await?;
    supervisor.spawn("schema check", async move {
        if !is_checked {
            check_until_answered(&pool, &component, shutdown.clone()).await?;
        }
        // A task that ends before the shutdown would end the role.
        shutdown.cancelled().await;
        Ok(())
    });
    Ok(())
}

async fn check_until_answered(pool: &PgPool, component: &Component, shutdown: CancellationToken) -> Result<()> {
    let mut backoff = Backoff::of_database();
    let checked = shutdown.run_until_cancelled(async {
        while !check(pool, component).await? {
            backoff.pause().await;
        }
        Ok(())
    });
    checked.await.unwrap_or(Ok(()))
}

/// Returns `false` when the database does not answer.
async fn check(pool: &PgPool, component: &Component) -> Result<bool> {
    match postgres::check_schema(pool).await {
        Ok(_) => {
            component.report_healthy();
            Ok(true)
        }
        Err(SchemaError::Sql(error)) => {
            component.report_unhealthy(format!("cannot read the schema: {}", postgres::explain(&error)));
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("cannot use {}", postgres::describe_database(pool))),
    }
}
