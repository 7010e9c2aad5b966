//! What must hold after each fault, as pure rules over what was noted and what was read. Reading is done elsewhere
//! (view, log, receiver).

mod delivered;
mod floors;
mod log;
mod status;
mod stored;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::delivered::{Receipt, Repeats, delivered, delivered_later};
pub use self::floors::empty;
pub use self::log::{LogEvent, equals_the_log, verdicts_are_justified};
pub use self::status::status;
pub use self::stored::{in_order, stored, tail_missed_nothing};

/// Something that must not be. Names the ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which rule, in lower case with hyphens.
    pub rule: String,
    /// What was found, with ids.
    pub found: String,
}

impl Violation {
    /// Of `rule`, with what was found.
    pub fn new(rule: &str, found: impl Into<String>) -> Self {
        Self { rule: rule.to_owned(), found: found.into() }
    }
}

/// Which event a duplicate stands for, per organization.
pub type Verdicts = HashMap<(Uuid, Uuid), Uuid>;
