//! A broken rule, and the duplicate decisions that several rules need.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Violation {
    /// The name of the rule, in lower case with hyphens.
    pub rule: String,
    /// What was found, with ids.
    pub found: String,
}

impl Violation {
    /// A violation of `rule`.
    pub(crate) fn new(rule: &str, found: impl Into<String>) -> Self {
        Self { rule: rule.to_owned(), found: found.into() }
    }
}

/// Organization and id of each duplicate, with the id of its original.
pub(crate) type Duplicates = HashMap<(Uuid, Uuid), Uuid>;
