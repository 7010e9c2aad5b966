//! Transactions whose start can be cancelled.

use sqlx::postgres::{PgPool, PgTransaction};
use sqlx::{SqlSafeStr as _, Transaction};

/// Starts a transaction. The caller can be cancelled at any time; `Pool::begin` must not be.
///
/// # Errors
/// When no connection is free in time, or the server refuses.
pub async fn begin(pool: &PgPool) -> Result<PgTransaction<'static>, sqlx::Error> {
    begin_with(pool, "BEGIN").await
}

/// As [`begin`], with statements that start the transaction.
///
/// # Errors
/// Those of [`begin`].
pub async fn begin_with(pool: &PgPool, statements: &'static str) -> Result<PgTransaction<'static>, sqlx::Error> {
    let connection = pool.acquire().await?;
    // sqlx 0.9.0 does not know of a transaction before the server has answered. If `BEGIN` is cancelled after it was
    // sent, the connection returns to the pool with an open transaction. What the next user of the connection writes
    // without a transaction of its own is then confirmed, seen by nobody, and lost
    // (https://github.com/transact-rs/sqlx/issues/4393). A task is not cancelled with its caller; it drops the
    // transaction, which is then rolled back.
    let starting = tokio::spawn(Transaction::begin(connection, Some(statements.into_sql_str())));
    match starting.await {
        Ok(started) => started,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is stopping.
        Err(_) => Err(sqlx::Error::PoolClosed),
    }
}
