//! Whether the dispatcher does its work, as its health component tells. That the database or the consumer fails is told
//! where it is found.

use std::time::{Duration, Instant};

use super::Pass;

const EXAMINE_EVERY: Duration = Duration::from_secs(1);

impl Pass {
    /// The database has answered: up, unless something else ails.
    pub(super) fn feel_well(&self) {
        match self.ailment() {
            None => self.component.up(),
            Some(reason) => self.component.down(reason),
        }
    }

    /// Looks once a second, also while no records come, whether something ails or no longer does.
    pub(super) async fn examine(&mut self) {
        if self.last_examined.elapsed() < EXAMINE_EVERY {
            return;
        }
        self.last_examined = Instant::now();
        if self.component.is_up() && self.ailment().is_none() {
            return;
        }
        // Asks the database, and learns of an unusable endpoint that was deleted or disabled.
        match self.parts.directory.current().await {
            Ok(_) => self.feel_well(),
            Err(error) => self.component.down(format!("the database: {error}")),
        }
    }

    /// What keeps webhooks from being sent although records and database are there.
    fn ailment(&self) -> Option<String> {
        if let Some((partition, reason)) = self.stopped.first_key_value() {
            return Some(format!("partition {partition}: {reason}"));
        }
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
