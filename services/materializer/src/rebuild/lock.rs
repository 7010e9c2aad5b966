//! The lock that rebuilds and replays exclude each other with: an advisory lock in PostgreSQL, on its own connection.

use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgPool};
use tracing::debug;

use super::error::RebuildError;

/// How long to wait for a holder that is about to finish: PostgreSQL may notice a closed connection a moment later, and
/// an erasure takes the lock for a moment.
const MAX_WAIT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Holds the lock for as long as its connection lasts.
pub(super) struct RebuildLock(PgConnection);

impl RebuildLock {
    /// Waits up to five seconds for the current holder.
    pub(super) async fn acquire(pool: &PgPool) -> Result<Self, RebuildError> {
        let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
        let started = Instant::now();
        loop {
            let is_ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('triggers view rebuild'))")
                .fetch_one(&mut connection)
                .await?;
            if is_ours {
                return Ok(Self(connection));
            }
            if started.elapsed() > MAX_WAIT {
                return Err(RebuildError::Busy(describe_holder(&mut connection).await?));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Releases the lock at once. If it is only dropped, the lock is released when PostgreSQL notices.
    pub(super) async fn release(self) {
        if let Err(error) = self.0.close().await {
            debug!(%error, "Connection of the rebuild lock was lost before the release; PostgreSQL releases the lock.");
        }
    }
}

/// Describes the holder for an error text: a process that hangs keeps the lock for as long as its connection lasts.
async fn describe_holder(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let found: Option<(i32, String, String)> = sqlx::query_as(
        "SELECT a.pid, COALESCE(host(a.client_addr) || ':' || a.client_port, 'this machine'),
                COALESCE(to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                         'an unknown time')
         FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.granted
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND l.objid::bigint = hashtext('triggers view rebuild')::bigint & 4294967295",
    )
    .fetch_optional(connection)
    .await?;
    Ok(found.map_or_else(
        || "it has finished just now; run the command again".to_owned(),
        |(pid, from, since)| {
            format!(
                "PostgreSQL backend {pid}, connected from {from} since {since}. If its process hangs, stop the \
                 process, or the backend with SELECT pg_terminate_backend({pid})"
            )
        },
    ))
}
