//! Health of the log worker, as the component `dispatcher` reports it. Failures of the database and the consumer are
//! reported where they occur.

use std::time::{Duration, Instant};

use kafka::consumer::Session;

use super::LogWorker;

const EXAMINE_EVERY: Duration = Duration::from_secs(1);

impl LogWorker {
    /// Checks the health once a second, also while no records come.
    pub(super) async fn examine(&mut self, session: &Session) {
        if self.last_examined.elapsed() < EXAMINE_EVERY {
            return;
        }
        self.last_examined = Instant::now();
        if session.component().is_healthy() && session.trouble().is_none() && self.unhealthy_reason().is_none() {
            return;
        }
        // Asks the database, and learns of an unusable endpoint that was deleted or disabled.
        match self.dependencies.endpoint_cache.current().await {
            Ok(_) => session.report_health(self.unhealthy_reason()),
            Err(error) => session.component().report_unhealthy(format!("the database: {error}")),
        }
    }

    /// Why no webhooks are sent although Kafka and the database answer.
    pub(super) fn unhealthy_reason(&self) -> Option<String> {
        if !self.dependencies.reporter.is_available() {
            return Some("attempts cannot be reported to Kafka, so none begins".to_owned());
        }
        let known = self.dependencies.endpoint_cache.cached();
        let first = known.unusable().first()?;
        let more = known.unusable().len() - 1;
        Some(format!(
            "endpoint {first} and {more} more cannot be used: their secrets do not open with this sealing key"
        ))
    }
}
