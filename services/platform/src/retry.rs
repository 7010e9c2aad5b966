//! Pauses between attempts of one operation: each about twice as long as the one before, with jitter, so that instances
//! that failed together do not retry together. The caller decides what is retried and when it stops.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The pauses of one operation.
#[derive(Debug)]
pub struct Backoff {
    policy: ExponentialBuilder,
    delays: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// The first pause is at most `first`, no pause is longer than `longest`, and none is shorter than half of what it
    /// may be at most.
    pub fn new(first: Duration, longest: Duration) -> Self {
        // backon adds up to as much again to each delay: of the halves, the whole is never exceeded.
        let policy = ExponentialBuilder::new()
            .with_min_delay(first / 2)
            .with_max_delay(longest / 2)
            .with_jitter()
            .without_max_times();
        Self { policy, delays: policy.build(), longest }
    }

    /// While PostgreSQL cannot be reached: 200 ms at first, 2 s at most.
    pub fn of_database() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(2))
    }

    /// The next pause, for a caller that waits for something else too.
    pub fn next_delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.longest)
    }

    /// Sleeps for the next pause.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// The operation succeeded: the next pause is a first one.
    pub fn reset(&mut self) {
        self.delays = self.policy.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        for most in [100, 200, 400, 800, 1000, 1000] {
            let most = Duration::from_millis(most);
            let delay = backoff.next_delay();
            assert!(delay >= most / 2 && delay <= most, "{delay:?} is not between half of {most:?} and {most:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST, "a success starts with the first pause again");
    }

    #[test]
    fn two_instances_do_not_pause_alike() {
        let delays = || {
            let mut backoff = Backoff::new(FIRST, LONGEST);
            (0..4).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_ne!(delays(), delays());
    }
}
