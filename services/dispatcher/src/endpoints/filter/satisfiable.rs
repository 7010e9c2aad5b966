//! Refuses filters that never hold, where the conditions of one `all` contradict each other on the same path: a
//! client that writes such a filter expects events, and would get none.

use http_server::FieldError;

use super::number::Decimal;
use super::payload::Segment;
use super::{Comparison, Condition, Node, Scalar, Test};

/// # Errors
/// The place of the first condition that cannot hold with those before it.
pub(super) fn check(node: &Node, place: &str) -> Result<(), FieldError> {
    match node {
        Node::All(nodes) => {
            let mut demands = Vec::new();
            for (index, node) in nodes.iter().enumerate() {
                collect(node, &format!("{place}.all[{index}]"), &mut demands)?;
            }
            Ok(())
        }
        Node::Any(nodes) => {
            nodes.iter().enumerate().try_for_each(|(index, node)| check(node, &format!("{place}.any[{index}]")))
        }
        // What never holds inside of it always holds.
        Node::Not(_) => Ok(()),
        Node::Condition(condition) => add(condition, place, &mut Vec::new()),
    }
}

/// Adds what the filters of an `all` demand, those of an `all` within it as well.
fn collect<'a>(node: &'a Node, place: &str, demands: &mut Vec<Demands<'a>>) -> Result<(), FieldError> {
    match node {
        Node::All(nodes) => nodes
            .iter()
            .enumerate()
            .try_for_each(|(index, node)| collect(node, &format!("{place}.all[{index}]"), demands)),
        Node::Condition(condition) => add(condition, place, demands),
        Node::Any(_) | Node::Not(_) => check(node, place),
    }
}

fn add<'a>(condition: &'a Condition, place: &str, demands: &mut Vec<Demands<'a>>) -> Result<(), FieldError> {
    let known = demands.iter().position(|demand| demand.path == condition.path);
    let index = known.unwrap_or_else(|| {
        demands.push(Demands { path: &condition.path, tests: Vec::new() });
        demands.len() - 1
    });
    let Some(of_path) = demands.get_mut(index) else { return Ok(()) };
    of_path.tests.extend(&condition.tests);
    if of_path.can_hold() {
        return Ok(());
    }
    Err(FieldError::new(place, "never holds: it contradicts itself or another condition of the same path"))
}

/// Everything that one `all` demands of the value at a path.
struct Demands<'a> {
    path: &'a [Segment],
    tests: Vec<&'a Test>,
}

impl Demands<'_> {
    /// `true` if it cannot be ruled out.
    fn can_hold(&self) -> bool {
        if self.tests.iter().any(|test| matches!(test, Test::Exists(false))) {
            return self.tests.iter().all(|test| matches!(test, Test::Exists(false)));
        }
        let lists: Vec<&Vec<Scalar>> = self.of(|test| if let Test::In(values) = test { Some(values) } else { None });
        if let Some(first) = lists.first() {
            return first.iter().any(|value| self.tests.iter().all(|test| may_be(test, value)));
        }
        let prefixes: Vec<&String> = self.of(|test| if let Test::Prefix(prefix) = test { Some(prefix) } else { None });
        let is_compared = self.tests.iter().any(|test| matches!(test, Test::Compare(..)));
        let agree = |one: &String, other: &String| one.starts_with(other.as_str()) || other.starts_with(one.as_str());
        let prefixes_agree = prefixes.iter().all(|one| prefixes.iter().all(|other| agree(one, other)));
        prefixes_agree && (prefixes.is_empty() || !is_compared) && self.bounds_leave_room()
    }

    fn of<'b, T>(&'b self, pick: impl Fn(&'b Test) -> Option<&'b T>) -> Vec<&'b T> {
        self.tests.iter().filter_map(|test| pick(test)).collect()
    }

    /// Every lower bound is below every upper one. There is a decimal number between any two.
    fn bounds_leave_room(&self) -> bool {
        let bound = |test: &&Test| match test {
            Test::Compare(comparison, number) => Some((*comparison, number.clone())),
            _ => None,
        };
        let bounds: Vec<(Comparison, Decimal)> = self.tests.iter().filter_map(bound).collect();
        let leaves_room = |lower: &(Comparison, Decimal), upper: &(Comparison, Decimal)| match (lower.0, upper.0) {
            (Comparison::Gte, Comparison::Lte) => lower.1 <= upper.1,
            (Comparison::Gt | Comparison::Gte, Comparison::Lt | Comparison::Lte) => lower.1 < upper.1,
            _ => true,
        };
        bounds.iter().all(|one| bounds.iter().all(|other| leaves_room(one, other)))
    }
}

/// Whether a test holds for this value.
fn may_be(test: &Test, value: &Scalar) -> bool {
    match (test, value) {
        (Test::Exists(wanted), _) => *wanted,
        (Test::In(values), _) => values.contains(value),
        (Test::Prefix(prefix), Scalar::Text(text)) => text.starts_with(prefix.as_str()),
        (Test::Compare(comparison, number), Scalar::Number(value)) => comparison.holds(value, number),
        _ => false,
    }
}
