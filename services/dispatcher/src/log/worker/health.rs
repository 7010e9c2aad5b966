//! Health of the log worker, as the component `dispatcher` reports it.

use std::time::{Duration, Instant};

use kafka::consumer::Session;
use runtime::retry::Backoff;

use crate::dependencies::Dependencies;

const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why no webhooks are sent although Kafka and the database answer.
pub(super) fn unhealthy_reason(dependencies: &Dependencies) -> Option<String> {
    if !dependencies.reporter.is_available() {
        return Some("Kafka does not accept attempt reports; no attempts are started".to_owned());
    }
    let endpoints = dependencies.endpoint_cache.cached();
    let first = endpoints.unusable().first()?;
    let count = endpoints.unusable().len();
    Some(format!("the sealing key does not open the secrets of {count} endpoints, for example {first}"))
}

pub(super) fn report_database_error(session: &Session, error: &sqlx::Error) {
    session.component().report_unhealthy(format!("PostgreSQL: {error}"));
}

/// Repeats a read of the database until it succeeds. `None`: the shutdown came first.
pub(super) async fn read_with_retries<T, F>(
    dependencies: &Dependencies,
    session: &Session,
    mut read: impl FnMut() -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let mut backoff = Backoff::of_database();
    loop {
        match read().await {
            Ok(value) => {
                session.report_health(unhealthy_reason(dependencies));
                return Some(value);
            }
            Err(error) => report_database_error(session, &error),
        }
        session.shutdown().run_until_cancelled(backoff.pause()).await?;
    }
}

/// Checks the health once a second, also while no records come.
pub(super) struct HealthCheck {
    last: Instant,
}

impl HealthCheck {
    pub(super) fn new() -> Self {
        Self { last: Instant::now() }
    }

    pub(super) async fn run_if_due(&mut self, dependencies: &Dependencies, session: &Session) {
        if self.last.elapsed() < CHECK_INTERVAL {
            return;
        }
        self.last = Instant::now();
        if session.component().is_healthy()
            && session.stopped_reason().is_none()
            && unhealthy_reason(dependencies).is_none()
        {
            return;
        }
        // Tests the database, and notices when an unusable endpoint was deleted or disabled.
        match dependencies.endpoint_cache.current().await {
            Ok(_) => session.report_health(unhealthy_reason(dependencies)),
            Err(error) => report_database_error(session, &error),
        }
    }
}
