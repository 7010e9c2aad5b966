//! Filters: conditions on the payload of an event, as JSON. Pure.
//!
//! `read` checks what a client wrote and compiles it, `satisfiable` refuses filters that never hold, `number` compares
//! numbers exactly, and `payload` finds values in a payload.
//!
//! A filter is one of these objects:
//! - `{"all": [FILTER, …]}`, `{"any": [FILTER, …]}`, `{"not": FILTER}`;
//! - `{"path": PATH, OPERATOR: VALUE, …}`, a condition. Each of its operators must hold for the value at the path.
//!
//! A path is a text such as `order.items.0.sku`, or a list of names, for names with a dot. A name finds a member of an
//! object, a whole number also an item of an array. Operators: `exists`, `equals`, `in`, `prefix`, `gt`, `gte`, `lt`
//! and `lte`. Without a value at the path, only `"exists": false` holds. `null` is a value.
//!
//! Values of different types are never equal. Numbers are compared exactly as decimal numbers, so 1 equals 1.0 and 1e0.
//! In a payload that is no JSON object, and in binary data (`payload_encoding`), no condition holds, not even
//! `"exists": false`; a `not` of it does.

mod number;
pub(crate) mod payload;
mod read;
mod satisfiable;
#[cfg(test)]
mod tests;

use number::Decimal;
use payload::{Found, Payload, Segment};
pub(crate) use read::read;
use serde::Serialize;
use utoipa::ToSchema;

/// A compiled filter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter(Node);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Condition(Condition),
}

#[derive(Debug, Clone, PartialEq)]
struct Condition {
    path: Vec<Segment>,
    tests: Vec<Test>,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Exists(bool),
    /// One of these values.
    In(Vec<Scalar>),
    Prefix(String),
    Compare(Comparison, Decimal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Gt,
    Gte,
    Lt,
    Lte,
}

/// A value that a filter names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scalar {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(String),
}

/// Whether one condition of a filter holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ConditionVerdict, example = json!({"condition": "all[0]", "holds": true}))]
pub(crate) struct Verdict {
    /// Where it is in the filter, such as `all[0].not`; empty: the filter is the condition.
    pub condition: String,
    pub holds: bool,
}

impl Filter {
    /// Whether the filter holds.
    pub(crate) fn holds(&self, payload: &Payload<'_>) -> bool {
        self.0.holds(payload)
    }

    /// Whether each of its conditions holds, in their order.
    pub(crate) fn verdicts(&self, payload: &Payload<'_>) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        self.0.collect(payload, String::new(), &mut verdicts);
        verdicts
    }
}

impl Node {
    fn holds(&self, payload: &Payload<'_>) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.holds(payload)),
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(payload)),
            Self::Not(node) => !node.holds(payload),
            Self::Condition(condition) => condition.holds(payload),
        }
    }

    fn collect(&self, payload: &Payload<'_>, place: String, verdicts: &mut Vec<Verdict>) {
        let inside = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
        match self {
            Self::All(nodes) => collect_each(nodes, payload, &inside("all"), verdicts),
            Self::Any(nodes) => collect_each(nodes, payload, &inside("any"), verdicts),
            Self::Not(node) => node.collect(payload, inside("not"), verdicts),
            Self::Condition(condition) => {
                verdicts.push(Verdict { condition: place, holds: condition.holds(payload) });
            }
        }
    }
}

fn collect_each(nodes: &[Node], payload: &Payload<'_>, place: &str, verdicts: &mut Vec<Verdict>) {
    for (index, node) in nodes.iter().enumerate() {
        node.collect(payload, format!("{place}[{index}]"), verdicts);
    }
}

impl Condition {
    fn holds(&self, payload: &Payload<'_>) -> bool {
        payload.is_object() && {
            let found = payload.find(&self.path);
            self.tests.iter().all(|test| test.holds(found))
        }
    }
}

impl Test {
    fn holds(&self, found: Option<&Found<'_>>) -> bool {
        match self {
            Self::Exists(wanted) => found.is_some() == *wanted,
            Self::In(values) => found.is_some_and(|found| values.iter().any(|value| value.is(found))),
            Self::Prefix(prefix) => matches!(found, Some(Found::Text(text)) if text.starts_with(prefix.as_str())),
            Self::Compare(comparison, number) => {
                matches!(found, Some(Found::Number(found)) if comparison.holds(found, number))
            }
        }
    }
}

impl Comparison {
    fn holds(self, left: &Decimal, right: &Decimal) -> bool {
        match self {
            Self::Gt => left > right,
            Self::Gte => left >= right,
            Self::Lt => left < right,
            Self::Lte => left <= right,
        }
    }
}

impl Scalar {
    fn is(&self, found: &Found<'_>) -> bool {
        match (self, found) {
            (Self::Null, Found::Null) => true,
            (Self::Bool(one), Found::Bool(other)) => one == other,
            (Self::Number(one), Found::Number(other)) => one == other,
            (Self::Text(one), Found::Text(other)) => one == other,
            _ => false,
        }
    }
}
