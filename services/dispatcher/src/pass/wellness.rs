//! Whether the dispatcher does its work, as its health component tells. That the database or the consumer fails is told
//! where it is found.

use std::time::{Duration, Instant};

use platform::kafka::consumer::Session;

use super::Pass;

const EXAMINE_EVERY: Duration = Duration::from_secs(1);

impl Pass {
    /// Looks once a second, also while no records come, whether something is wrong or no longer is.
    pub(super) async fn examine(&mut self, session: &Session) {
        if self.last_examined.elapsed() < EXAMINE_EVERY {
            return;
        }
        self.last_examined = Instant::now();
        if session.component().is_up() && session.trouble().is_none() && self.trouble().is_none() {
            return;
        }
        // Asks the database, and learns of an unusable endpoint that was deleted or disabled.
        match self.parts.directory.current().await {
            Ok(_) => session.report_health(self.trouble()),
            Err(error) => session.component().down(format!("the database: {error}")),
        }
    }

    /// What keeps webhooks from being sent although records and database are there.
    pub(super) fn trouble(&self) -> Option<String> {
        if !self.parts.reporter.is_heard() {
            return Some("attempts cannot be reported to Kafka, so none begins".to_owned());
        }
        let known = self.parts.directory.known();
        let first = known.unusable().first()?;
        let more = known.unusable().len() - 1;
        Some(format!(
            "endpoint {first} and {more} more cannot be used: their secrets do not open with this sealing key"
        ))
    }
}
