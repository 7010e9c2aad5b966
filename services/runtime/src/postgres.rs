//! PostgreSQL: connecting, migrating, and telling what an error asks of us. Statements live in the slices that own the
//! tables.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

/// How to reach the database.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`; options as libpq knows them.
    pub url: String,
    /// Bound of the pool.
    pub max_connections: u32,
    /// How long a caller waits for a connection before it learns that the database is out of reach.
    pub acquire_timeout: Duration,
    /// Bound of one statement, set on each connection; nothing here runs long.
    pub statement_timeout: Duration,
    /// How long a transaction may wait for its client before the server ends it: a process that is paused, or gone
    /// without a word, would hold its locks for ever, and with them the partitions that another instance has to claim.
    pub idle_transaction_timeout: Duration,
}

impl std::fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("PostgresConfig").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

impl PostgresConfig {
    /// Defaults: 16 connections, 2 s to get one, 30 s for a statement, 10 s between two of a transaction.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 16,
            acquire_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(30),
            idle_transaction_timeout: Duration::from_secs(10),
        }
    }
}

/// Makes the pool. It connects when first used, so that what can work without the database starts without it.
///
/// # Errors
/// When the URL cannot be read.
pub fn connect(config: &PostgresConfig) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(&config.url)?.application_name("triggers").options([
        ("statement_timeout", config.statement_timeout.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", config.idle_transaction_timeout.as_millis().to_string()),
    ]);
    Ok(PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(config.acquire_timeout)
        .connect_lazy_with(options))
}

/// A second pool to the same server, of the same size, whose connections carry these settings of PostgreSQL.
pub fn with_settings(pool: &PgPool, settings: &'static [(&'static str, &'static str)]) -> PgPool {
    let options = PgConnectOptions::clone(&pool.connect_options()).options(settings.iter().copied());
    pool.options().clone().connect_lazy_with(options)
}

/// Connects once, to have the reason when that fails: a pool only says that it had no connection in time.
///
/// # Errors
/// Why not, in a sentence that names the place and never the password.
pub async fn reach(pool: &PgPool) -> Result<(), String> {
    let connected =
        tokio::time::timeout(pool.options().get_acquire_timeout(), PgConnection::connect_with(&pool.connect_options()))
            .await;
    let reason = match connected {
        Ok(Ok(connection)) => {
            // Whether it says goodbye does not matter.
            let _closed = connection.close().await;
            return Ok(());
        }
        Ok(Err(sqlx::Error::Database(error))) => error.message().to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    Err(format!("{}: {reason}", place(pool)))
}

/// Which database a pool is for, for messages: never the user or the password.
pub fn place(pool: &PgPool) -> String {
    let options = pool.connect_options();
    format!(
        "the database {} at {}:{} (DATABASE_URL)",
        options.get_database().unwrap_or("of the user's name"),
        options.get_host(),
        options.get_port()
    )
}

/// Why the schema could not be brought to this version.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The schema is that of a version before the first release.
    #[error(
        "its schema is of a Triggers before the first release, from which nothing is migrated; use an empty database \
         (`triggers up`: another --data-dir, or remove the folder)"
    )]
    Unreleased,
    /// Anything else: the database is unreachable, or was migrated by a newer version.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

/// Brings the schema to this binary's version. Several instances may do so at once: they take turns.
///
/// # Errors
/// When the database is unreachable, or was migrated by a newer version, or by one before the first release.
pub async fn migrate(pool: &PgPool) -> Result<(), SchemaError> {
    let migrations = schemas::postgres::MIGRATIONS
        .iter()
        .map(|m| {
            let sql = sqlx::SqlStr::from_static(m.sql);
            Migration::new(m.version, Cow::Borrowed(m.name), MigrationType::Simple, sql, false)
        })
        .collect::<Vec<_>>();
    match Migrator::with_migrations(migrations).run(pool).await {
        // Before the first release, migration 1 had other bytes.
        Err(MigrateError::VersionMismatch(1)) => Err(SchemaError::Unreleased),
        // There were more of them, of which the last ones are unknown now.
        Err(MigrateError::VersionMissing(_)) if has_unreleased_schema(pool).await => Err(SchemaError::Unreleased),
        outcome => Ok(outcome?),
    }
}

/// Before the first release, migration 5 had another name.
async fn has_unreleased_schema(pool: &PgPool) -> bool {
    let asked = sqlx::query_scalar("SELECT EXISTS (SELECT FROM _sqlx_migrations WHERE description = 'contracts')");
    asked.fetch_one(pool).await.unwrap_or(false)
}

/// What an error asks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlEffect {
    /// The data is at fault (SQLSTATE classes 22, 23 and 54: value, constraint, limit of an index row and the like):
    /// doing it again changes nothing; part of the batch may do.
    Data,
    /// A conflict with another transaction (40001, 40P01): do it again at once.
    Retry,
    /// The server is out of reach, starting, stopping, full or read-only: wait, then do it again. A commit may have
    /// happened.
    Unavailable,
    /// A fault of ours, or of the installation.
    Fatal,
}

/// Tells what `error` asks of the caller.
pub fn effect(error: &sqlx::Error) -> SqlEffect {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Tls(_) => SqlEffect::Unavailable,
        // A connection that breaks in the middle of a message looks like nonsense on the wire.
        sqlx::Error::Protocol(_) => SqlEffect::Unavailable,
        sqlx::Error::Database(database) => match database.code().as_deref() {
            Some("40001" | "40P01") => SqlEffect::Retry,
            // Read-only, as the old primary is after a fail-over; a transaction whose client did not come back in time;
            // or a lock that did not come in time.
            Some("25006" | "25P03" | "55P03") => SqlEffect::Unavailable,
            Some(code) => match code.get(..2) {
                Some("22" | "23" | "54") => SqlEffect::Data,
                // Connection, resources, intervention of an operator (restart, statement timeout), system error.
                Some("08" | "53" | "57" | "58") => SqlEffect::Unavailable,
                _ => SqlEffect::Fatal,
            },
            None => SqlEffect::Fatal,
        },
        _ => SqlEffect::Fatal,
    }
}
