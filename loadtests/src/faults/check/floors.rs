//! What must have happened at all, so that the other rules say something.

use super::Violation;

/// Each of these things, with how often it happened in a round, must have happened.
pub fn empty(counts: &[(&str, usize)]) -> Vec<Violation> {
    let never = counts.iter().filter(|(_, count)| *count == 0);
    never.map(|(what, _)| Violation::new("empty", format!("in the whole round nothing was {what}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_told() {
        assert_eq!(
            empty(&[("accepted", 1), ("shown", 0)]),
            [Violation::new("empty", "in the whole round nothing was shown")]
        );
        assert!(empty(&[("accepted", 1), ("shown", 2)]).is_empty());
    }
}
