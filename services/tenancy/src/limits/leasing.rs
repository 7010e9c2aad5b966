//! The task that leases tokens for all scopes of a process.
//!
//! While PostgreSQL does not answer, or takes longer than the timeout for a lease, the process goes on with local
//! windows: no request waits, and each instance admits its part of every limit.

use std::sync::Arc;
use std::time::Duration;

use runtime::retry::Backoff;
use sqlx::postgres::{PgConnection, PgPool};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::queue::LeaseQueue;
use super::scope::Scope;
use super::store;
use super::tokens::{Ask, Grant};
use crate::metrics::METRICS;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the task collects scopes before it leases for them together.
const COLLECT: Duration = Duration::from_millis(1);
/// Scopes in one transaction.
const MAX_SCOPES: usize = 500;
/// How often ended leases are given back: four times within the time that tokens may be spent.
const ENDED_PER_SPEND: u32 = 4;

/// Runs until `shutdown`. Requests after that are decided by the local window.
pub(super) async fn run(queue: Arc<LeaseQueue>, pool: PgPool, shutdown: CancellationToken) {
    let mut leasing = Leasing { queue, pool, outstanding: Vec::new() };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = leasing.run() => {}
    }
    leasing.queue.set_local(true);
    leasing.release_waiting();
}

struct Leasing {
    queue: Arc<LeaseQueue>,
    pool: PgPool,
    /// Scopes with unspent tokens.
    outstanding: Vec<Arc<Scope>>,
}

impl Leasing {
    async fn run(&mut self) {
        let mut backoff = Backoff::of_database();
        let mut local_since: Option<Instant> = None;
        loop {
            let connected = timeout(CONNECT_TIMEOUT, store::connect(&self.pool)).await;
            let reason = match connected {
                Ok(Ok(connection)) => {
                    if local_since.is_some() {
                        tracing::info!("Rate limits are shared between instances again");
                    }
                    self.queue.set_local(false);
                    METRICS.limits_local.set(0.0);
                    count_local(local_since.take());
                    self.serve(connection, &mut backoff).await.to_string()
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "connecting timed out".to_owned(),
            };
            self.queue.set_local(true);
            if local_since.is_none() {
                let instances = self.queue.instances();
                tracing::warn!(reason, instances, "PostgreSQL leased no tokens in time; limiting rates locally");
            }
            METRICS.limits_local.set(1.0);
            count_local(local_since.replace(Instant::now()));
            self.release_waiting();
            backoff.pause().await;
        }
    }

    /// Leases until that fails. Returns why.
    async fn serve(&mut self, mut connection: PgConnection, backoff: &mut Backoff) -> sqlx::Error {
        let spend_ms = self.queue.shape.spend * self.queue.shape.bucket_ms;
        let mut ended = tokio::time::interval(Duration::from_millis(u64::from(spend_ms / ENDED_PER_SPEND).max(1)));
        ended.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.queue.wait() => {}
                _ = ended.tick() => {
                    self.outstanding.retain(|scope| scope.end_leases(&self.queue));
                    continue;
                }
            }
            tokio::time::sleep(COLLECT).await;
            let scopes = self.queue.drain(MAX_SCOPES);
            if scopes.is_empty() {
                continue;
            }
            if let Err(error) = self.lease(&mut connection, scopes).await {
                return error;
            }
            backoff.reset();
        }
    }

    async fn lease(&mut self, connection: &mut PgConnection, scopes: Vec<Arc<Scope>>) -> Result<(), sqlx::Error> {
        let asked_ms = self.queue.now_ms();
        let asks: Vec<(Uuid, Ask)> = scopes.iter().map(|scope| (scope.id, scope.ask(asked_ms))).collect();
        METRICS.limits_leases.inc();
        let leased = store::lease(connection, self.queue.shape, &asks, asked_ms);
        match timeout(self.queue.settings.lease_timeout, leased).await {
            Ok(Ok(grants)) => {
                self.granted(scopes, &asks, grants);
                Ok(())
            }
            outcome => {
                // Before the requests are woken: they find the local window.
                self.queue.set_local(true);
                for (scope, (_, ask)) in scopes.iter().zip(&asks) {
                    scope.ask_failed(ask.unrecorded.as_ref());
                }
                let late = sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "a lease timed out"));
                Err(outcome.map_or(late, |failed| failed.err().unwrap_or(sqlx::Error::WorkerCrashed)))
            }
        }
    }

    fn granted(&mut self, scopes: Vec<Arc<Scope>>, asks: &[(Uuid, Ask)], grants: Vec<Grant>) {
        let now_ms = self.queue.now_ms();
        let returned = asks.iter().flat_map(|(_, ask)| &ask.returns).map(|unspent| u64::from(unspent.tokens)).sum();
        METRICS.limits_returned.inc_by(returned);
        METRICS.limits_leased.inc_by(grants.iter().map(|grant| u64::from(grant.tokens)).sum());
        for (scope, grant) in scopes.into_iter().zip(grants) {
            if scope.granted(grant, now_ms) {
                self.outstanding.push(scope);
            }
        }
    }

    /// Wakes all requests that wait for a lease, so that they find the local window.
    fn release_waiting(&self) {
        loop {
            let scopes = self.queue.drain(MAX_SCOPES);
            if scopes.is_empty() {
                return;
            }
            let now_ms = self.queue.now_ms();
            for scope in scopes {
                let ask = scope.ask(now_ms);
                scope.ask_failed(ask.unrecorded.as_ref());
            }
        }
    }
}

fn count_local(since: Option<Instant>) {
    if let Some(since) = since {
        METRICS.limits_local_ms.inc_by(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
}
