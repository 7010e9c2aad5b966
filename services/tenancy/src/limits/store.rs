//! The shared windows in PostgreSQL. One transaction leases for many scopes.
//!
//! It has a connection of its own: neither do leases wait for a connection behind slow reads, nor does a connection
//! whose statement was given up go back to others.

use std::collections::HashMap;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{ConnectOptions, Connection};
use uuid::Uuid;

use super::tokens::{Ask, Grant};
use super::window::{Window, WindowShape};

/// Rows may vanish between their creation and the transaction, when they are very old.
const MAX_TRIES: u32 = 3;

/// Leases lost in a crash of the server are those of its last moments. That is cheaper than a sync for each lease. A
/// transaction whose process hangs releases its rows after a second.
const CONNECTION_SETTINGS: [(&str, &str); 4] = [
    ("synchronous_commit", "off"),
    ("idle_in_transaction_session_timeout", "1000"),
    ("statement_timeout", "1000"),
    ("application_name", "triggers rate limits"),
];

pub(super) async fn connect(pool: &PgPool) -> Result<PgConnection, sqlx::Error> {
    let options = PgConnectOptions::clone(&pool.connect_options()).options(CONNECTION_SETTINGS);
    options.connect().await
}

/// A row of a scope.
struct Row {
    window: Window,
    time_ms: i64,
}

/// Leases for all scopes, one after the other: several limits may be of one window. `asked_ms`: the time of this
/// process before this call.
pub(super) async fn lease(
    connection: &mut PgConnection,
    shape: WindowShape,
    asks: &[(Uuid, Ask)],
    asked_ms: i64,
) -> Result<Vec<Grant>, sqlx::Error> {
    let mut scopes: Vec<Uuid> = asks.iter().map(|(scope, _)| *scope).collect();
    // All transactions lock rows in the same order.
    scopes.sort_unstable();
    scopes.dedup();
    for _ in 0..MAX_TRIES {
        let mut transaction = connection.begin().await?;
        let mut rows = lock(&mut transaction, shape, &scopes).await?;
        let missing: Vec<Uuid> = scopes.iter().filter(|scope| !rows.contains_key(scope)).copied().collect();
        if missing.is_empty() {
            let grants = lease_locked(&mut rows, shape, asks, asked_ms)?;
            write(&mut transaction, &rows).await?;
            transaction.commit().await?;
            return Ok(grants);
        }
        // Creating rows while others are locked could deadlock.
        transaction.rollback().await?;
        create(connection, shape, &missing).await?;
    }
    Err(sqlx::Error::RowNotFound)
}

/// The clock is read before a row is locked, and never after its lease: the arithmetic of the window allows for that.
async fn lock(
    connection: &mut PgConnection,
    shape: WindowShape,
    scopes: &[Uuid],
) -> Result<HashMap<Uuid, Row>, sqlx::Error> {
    let rows: Vec<(Uuid, i64, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT scope, newest_bucket, counts, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
         FROM rate_limits WHERE scope = ANY($1) ORDER BY scope FOR UPDATE",
    )
    .bind(scopes)
    .fetch_all(connection)
    .await?;
    let row = |(scope, newest, counts, time_ms): (Uuid, i64, Vec<u8>, i64)| {
        (scope, Row { window: Window::from_bytes(shape, newest, &counts), time_ms })
    };
    Ok(rows.into_iter().map(row).collect())
}

fn lease_locked(
    rows: &mut HashMap<Uuid, Row>,
    shape: WindowShape,
    asks: &[(Uuid, Ask)],
    asked_ms: i64,
) -> Result<Vec<Grant>, sqlx::Error> {
    asks.iter()
        .map(|(scope, ask)| {
            let Row { window, time_ms } = rows.get_mut(scope).ok_or(sqlx::Error::RowNotFound)?;
            let bucket = window.advance(shape.bucket_at(*time_ms));
            for unspent in &ask.returns {
                window.give_back(unspent.bucket, unspent.tokens);
            }
            if let Some(unrecorded) = &ask.unrecorded {
                window.merge(unrecorded);
            }
            let tokens = window.lease(ask.limit, ask.wanted);
            let is_exhausted = tokens < ask.wanted;
            Ok(Grant { tokens, is_exhausted, bucket, window: window.clone(), time_ms: *time_ms, asked_ms })
        })
        .collect()
}

async fn write(connection: &mut PgConnection, rows: &HashMap<Uuid, Row>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE rate_limits r SET newest_bucket = n.newest_bucket, counts = n.counts
         FROM UNNEST($1::uuid[], $2::bigint[], $3::bytea[]) AS n (scope, newest_bucket, counts)
         WHERE r.scope = n.scope",
    )
    .bind(rows.keys().copied().collect::<Vec<_>>())
    .bind(rows.values().map(|row| row.window.newest()).collect::<Vec<_>>())
    .bind(rows.values().map(|row| row.window.to_bytes()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn create(connection: &mut PgConnection, shape: WindowShape, scopes: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO rate_limits (scope, newest_bucket, counts)
         SELECT scope, (extract(epoch FROM clock_timestamp()) * 1000)::bigint / $2, ''
         FROM UNNEST($1::uuid[]) AS s (scope) ORDER BY scope
         ON CONFLICT (scope) DO NOTHING",
    )
    .bind(scopes)
    .bind(i64::from(shape.bucket_ms))
    .execute(connection)
    .await?;
    Ok(())
}
