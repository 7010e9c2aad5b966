//! PostgreSQL: connecting, migrating, checking the schema, and classifying errors. Statements are in the crates
//! that own the tables.

mod options;
mod transaction;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

pub(crate) use self::options::check_files;
pub use self::options::{connect_options, explain};
pub use self::transaction::{begin, begin_with};

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

/// Makes the pool. It connects at first use, so that a process can start while the database is down. A connection that
/// an attacker on the network could read is logged.
///
/// # Errors
/// When the URL cannot be parsed.
pub fn connect(config: &PostgresConfig) -> Result<PgPool, sqlx::Error> {
    let options = connect_options(&config.url)?;
    if let Some(weakness) = options::weakness(&options) {
        let (host, sslmode) = (options.get_host(), options.get_ssl_mode());
        tracing::warn!(host, ?sslmode, weakness, "PostgreSQL connection is not protected; use sslmode=verify-full.");
    }
    let options = options.application_name("triggers").options([
        // Compiling a statement takes seconds of CPU when the planner overestimates it, and ours are short.
        ("jit", "off".to_owned()),
        ("statement_timeout", config.statement_timeout.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", config.idle_transaction_timeout.as_millis().to_string()),
    ]);
    Ok(PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(config.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, usage| {
            Box::pin(async move {
                if usage.idle_for >= TESTED_AFTER_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options))
}

/// A connection that was idle for so long is tested before it is used. Each use ends with a test, so a second one right
/// after it only costs a round trip: with a busy pool, as much as many a statement. A server that restarts is away for
/// longer.
const TESTED_AFTER_IDLE: Duration = Duration::from_millis(100);

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
        Ok(Err(error)) => explain(&error),
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

/// Why the schema is not the one of this binary, or could not be migrated to it.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// No migration was applied.
    #[error("it has no schema; run: triggers migrate")]
    Missing,
    /// The last migrations were not applied.
    #[error("its schema has version {version}, but this binary needs version {newest}; run: triggers migrate")]
    Outdated {
        /// The last migration that the schema has.
        version: i64,
        /// The last migration of this binary.
        newest: i64,
    },
    /// The schema has a migration that this binary does not have.
    #[error(
        "its schema has version {version}, but this binary supports version {newest}: the schema is of a newer \
         Triggers version; upgrade this binary"
    )]
    Newer {
        /// The last migration that the schema has.
        version: i64,
        /// The last migration of this binary.
        newest: i64,
    },
    /// The schema is from before the first release. A migration that was released never changes.
    #[error(
        "its schema is of a Triggers version before the first release and cannot be migrated; use an empty database \
         (`triggers up`: another --data-dir, or remove the folder)"
    )]
    Unreleased,
    /// The database is unreachable, or a migration failed.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The migrations of the database could not be read.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

/// Migrates the schema to this binary's version. Several instances may call it at once: they run one after the other.
///
/// # Errors
/// When the database is unreachable, or was migrated by a newer version or by one before the first release.
pub async fn migrate(pool: &PgPool) -> Result<(), SchemaError> {
    match Migrator::with_migrations(migrations()).run(pool).await {
        // sqlx names only the first migration that differs; the check finds out why.
        Err(MigrateError::VersionMismatch(_) | MigrateError::VersionMissing(_)) => check_schema(pool).await.map(drop),
        outcome => Ok(outcome?),
    }
}

/// Checks that the database has exactly the migrations of this binary, and returns the last one's version.
///
/// # Errors
/// [`SchemaError::Sql`] when the database does not answer; else how the schema differs, and what to do.
pub async fn check_schema(pool: &PgPool) -> Result<i64, SchemaError> {
    let query = "SELECT version, description, checksum FROM _sqlx_migrations WHERE success ORDER BY version";
    let applied: Vec<(i64, String, Vec<u8>)> = match sqlx::query_as(query).fetch_all(pool).await {
        Ok(applied) => applied,
        Err(error) if is_undefined_table(&error) => return Err(SchemaError::Missing),
        Err(error) => return Err(error.into()),
    };
    let expected = migrations();
    let newest = expected.last().map_or(0, |migration| migration.version);
    let Some((version, ..)) = applied.last() else { return Err(SchemaError::Missing) };
    let version = *version;
    let is_same = |migration: &Migration, (version, name, checksum): &(i64, String, Vec<u8>)| {
        migration.version == *version && migration.description == *name && *migration.checksum == **checksum
    };
    if !expected.iter().zip(&applied).all(|(migration, applied)| is_same(migration, applied)) {
        return Err(SchemaError::Unreleased);
    }
    match applied.len().cmp(&expected.len()) {
        Ordering::Less => Err(SchemaError::Outdated { version, newest }),
        Ordering::Equal => Ok(version),
        Ordering::Greater => Err(SchemaError::Newer { version, newest }),
    }
}

fn migrations() -> Vec<Migration> {
    let migration = |migration: &schemas::postgres::Migration| {
        let sql = sqlx::SqlStr::from_static(migration.sql);
        Migration::new(migration.version, Cow::Borrowed(migration.name), MigrationType::Simple, sql, false)
    };
    schemas::postgres::MIGRATIONS.iter().map(migration).collect()
}

fn is_undefined_table(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(database) if database.code().as_deref() == Some("42P01"))
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

/// Whether PostgreSQL cancelled a statement, as it does at the statement timeout. Less work may take less time.
pub fn is_statement_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|database| database.code()).is_some_and(|code| code == "57014")
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
