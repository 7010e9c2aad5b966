//! PostgreSQL: connecting, migrating, and classifying errors. Statements are in the crates that own the tables.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

/// How to connect to the database.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`, with libpq's options.
    pub url: String,
    /// The most connections of the pool.
    pub max_connections: u32,
    /// How long a caller waits for a connection before it gets an error.
    pub acquire_timeout: Duration,
    /// `statement_timeout` of each connection.
    pub statement_timeout: Duration,
    /// `idle_in_transaction_session_timeout` of each connection. Without it, a paused or lost process would hold its
    /// locks for ever, and no other instance could claim its partitions.
    pub idle_transaction_timeout: Duration,
}

impl std::fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("PostgresConfig").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

impl PostgresConfig {
    /// Defaults: 16 connections, 2 s to acquire one, 30 s per statement, 10 s idle in a transaction.
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

/// Makes the pool. It connects at first use, so that a process can start while the database is down.
///
/// # Errors
/// When the URL cannot be parsed.
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

/// A second pool to the same server, of the same size, whose connections have these PostgreSQL settings.
pub fn with_settings(pool: &PgPool, settings: &'static [(&'static str, &'static str)]) -> PgPool {
    let options = PgConnectOptions::clone(&pool.connect_options()).options(settings.iter().copied());
    pool.options().clone().connect_lazy_with(options)
}

/// Connects once, outside of the pool, because the pool's error is only a timeout without the reason.
///
/// # Errors
/// The database and the reason, as one sentence; never the password.
pub async fn check_connection(pool: &PgPool) -> Result<(), String> {
    let connected =
        tokio::time::timeout(pool.options().get_acquire_timeout(), PgConnection::connect_with(&pool.connect_options()))
            .await;
    let reason = match connected {
        Ok(Ok(connection)) => {
            // The check has succeeded; an error while closing does not matter.
            let _closed = connection.close().await;
            return Ok(());
        }
        Ok(Err(sqlx::Error::Database(error))) => error.message().to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    Err(format!("{}: {reason}", describe_database(pool)))
}

/// The database of a pool, for messages: name, host and port, never user or password.
pub fn describe_database(pool: &PgPool) -> String {
    let options = pool.connect_options();
    format!(
        "the database {} at {}:{} (DATABASE_URL)",
        options.get_database().unwrap_or("of the user's name"),
        options.get_host(),
        options.get_port()
    )
}

/// Why the schema could not be migrated to this version.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The schema is from before the first release.
    #[error(
        "its schema is of a Triggers version before the first release and cannot be migrated; use an empty database \
         (`triggers up`: another --data-dir, or remove the folder)"
    )]
    Unreleased,
    /// Another error: the database is unreachable, or was migrated by a newer version.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

/// Migrates the schema to this binary's version. Several instances may call it at once: they run one after the other.
///
/// # Errors
/// When the database is unreachable, or was migrated by a newer version or by one before the first release.
pub async fn migrate(pool: &PgPool) -> Result<(), SchemaError> {
    let migrations = schemas::postgres::MIGRATIONS
        .iter()
        .map(|m| {
            let sql = sqlx::SqlStr::from_static(m.sql);
            Migration::new(m.version, Cow::Borrowed(m.name), MigrationType::Simple, sql, false)
        })
        .collect::<Vec<_>>();
    match Migrator::with_migrations(migrations).run(pool).await {
        // Before the first release, migration 1 had another checksum.
        Err(MigrateError::VersionMismatch(1)) => Err(SchemaError::Unreleased),
        // There were more migrations before the first release; this version does not have the last ones.
        Err(MigrateError::VersionMissing(_)) if has_unreleased_schema(pool).await => Err(SchemaError::Unreleased),
        outcome => Ok(outcome?),
    }
}

/// Before the first release, migration 5 had another name.
async fn has_unreleased_schema(pool: &PgPool) -> bool {
    let query = sqlx::query_scalar("SELECT EXISTS (SELECT FROM _sqlx_migrations WHERE description = 'contracts')");
    query.fetch_one(pool).await.unwrap_or(false)
}

/// What the caller must do about an SQL error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlEffect {
    /// The data is invalid (SQLSTATE classes 22, 23 and 54: value, constraint, size of an index row and the like). A
    /// retry fails again; a part of the batch may succeed.
    Data,
    /// A conflict with another transaction (40001, 40P01): retry at once.
    Retry,
    /// The server is unreachable, starting, stopping, full or read-only: wait, then retry. The transaction may have
    /// been committed.
    Unavailable,
    /// A bug, or a wrong installation: a retry does not help.
    Fatal,
}

/// Classifies an SQL error.
pub fn effect(error: &sqlx::Error) -> SqlEffect {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Tls(_) => SqlEffect::Unavailable,
        // A connection that breaks in the middle of a message.
        sqlx::Error::Protocol(_) => SqlEffect::Unavailable,
        sqlx::Error::Database(database) => match database.code().as_deref() {
            Some("40001" | "40P01") => SqlEffect::Retry,
            // Read-only, as the old primary is after a failover; idle-in-transaction timeout; lock timeout.
            Some("25006" | "25P03" | "55P03") => SqlEffect::Unavailable,
            Some(code) => match code.get(..2) {
                Some("22" | "23" | "54") => SqlEffect::Data,
                // Connection, resources, operator intervention (restart, statement timeout), system error.
                Some("08" | "53" | "57" | "58") => SqlEffect::Unavailable,
                _ => SqlEffect::Fatal,
            },
            None => SqlEffect::Fatal,
        },
        _ => SqlEffect::Fatal,
    }
}
