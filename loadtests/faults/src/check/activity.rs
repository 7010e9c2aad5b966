//! What must have happened at all: a round without activity proves nothing.

use super::violation::Violation;

/// Each activity of a round, with its count, must have happened at least once.
pub(crate) fn require_activity(counts: &[(&str, usize)]) -> Vec<Violation> {
    let idle = counts.iter().filter(|(_, count)| *count == 0);
    idle.map(|(activity, _)| Violation::new("no-activity", format!("nothing was {activity} in the round"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activity_that_never_happened_is_a_violation() {
        assert_eq!(
            require_activity(&[("accepted", 1), ("shown", 0)]),
            [Violation::new("no-activity", "nothing was shown in the round")]
        );
        assert!(require_activity(&[("accepted", 1), ("shown", 2)]).is_empty());
    }
}
