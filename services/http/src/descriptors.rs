//! The process's limit on open file descriptors, which connections use.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors for Kafka, PostgreSQL, logs and listeners.
const RESERVED: u64 = 256;

/// Raises the soft limit on file descriptors to the hard one. Returns how many of the wanted connections then fit.
pub fn connections_that_fit(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let mut raised = limit;
        raised.current = raised.maximum;
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => tracing::warn!(%error, "Raising the limit on file descriptors failed"),
        }
    }
    let fitting = fitting(wanted, limit.current);
    if fitting < wanted {
        tracing::warn!(
            file_descriptors = limit.current,
            wanted,
            max_connections = fitting,
            "The limit on file descriptors allows fewer connections than configured"
        );
    }
    fitting
}

/// `limit`: `None` for no limit.
fn fitting(wanted: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return wanted };
    // A process that may open almost nothing still serves some.
    let left = limit.saturating_sub(RESERVED).max(limit / 2).max(1);
    wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(fitting(20_000, None), 20_000);
        assert_eq!(fitting(20_000, Some(1_024)), 768);
        assert_eq!(fitting(20_000, Some(1_048_576)), 20_000);
        assert_eq!(fitting(20_000, Some(100)), 50);
    }

    #[test]
    fn the_soft_limit_is_raised() {
        assert!(connections_that_fit(1) == 1);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
