//! The right to be the only one that reads the log again: a lock in PostgreSQL, held by a connection of its own.

use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgPool};
use tracing::debug;

use super::RebuildError;

/// How long who comes next waits for who ends: PostgreSQL may notice a closed connection only a moment later, and an
/// erasure takes the lock for one.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// The right, as long as its connection lasts.
pub(super) struct Alone(PgConnection);

impl Alone {
    /// Waits a moment for who has it.
    pub(super) async fn begin(pool: &PgPool) -> Result<Self, RebuildError> {
        let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
        let begun = Instant::now();
        loop {
            let is_ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('triggers view rebuild'))")
                .fetch_one(&mut connection)
                .await?;
            if is_ours {
                return Ok(Self(connection));
            }
            if begun.elapsed() > LOCK_PATIENCE {
                return Err(RebuildError::Busy(holder(&mut connection).await?));
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    /// Gives the right back at once. Dropped, it comes back when PostgreSQL notices.
    pub(super) async fn end(self) {
        if let Err(error) = self.0.close().await {
            debug!(%error, "The connection that held the lock was gone already.");
        }
    }
}

/// Whom to look for, in words: a process that was halted keeps the lock for as long as its connection lasts.
async fn holder(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let found: Option<(i32, String, String)> = sqlx::query_as(
        "SELECT a.pid, COALESCE(host(a.client_addr) || ':' || a.client_port, 'this machine'),
                COALESCE(to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), 'an unknown time')
         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND l.objid::bigint = hashtext('triggers view rebuild')::bigint & 4294967295",
    )
    .fetch_optional(connection)
    .await?;
    Ok(found.map_or_else(
        || "it has ended just now, so try again".to_owned(),
        |(pid, from, since)| {
            format!(
                "PostgreSQL's backend {pid}, connected from {from} since {since}. If its process hangs, end that, or the backend by \
                 SELECT pg_terminate_backend({pid})"
            )
        },
    ))
}
