//! Exponential backoff with jitter: each pause is about twice as long as the one before, and instances that failed at
//! the same time do not retry at the same time. The caller decides what is retried and how often.

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
    /// The first pause is at most `first`, and no pause is longer than `longest`. A pause is at least half of its upper
    /// bound.
    pub fn new(first: Duration, longest: Duration) -> Self {
        // backon's jitter adds up to 100 % to each delay. With half of the delay, the sum stays within the bound.
        let policy = ExponentialBuilder::new()
            .with_min_delay(first / 2)
            .with_max_delay(longest / 2)
            .with_jitter()
            .without_max_times();
        Self { policy, delays: policy.build(), longest }
    }

    /// For an unreachable PostgreSQL: 200 ms at first, 2 s at most.
    pub fn of_database() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(2))
    }

    /// The next pause, for a caller that also waits for something else.
    pub fn next_delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.longest)
    }

    /// Sleeps for the next pause.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// Call it after a success: the next pause is a first one again.
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
    fn two_instances_pause_differently() {
        let delays = || {
            let mut backoff = Backoff::new(FIRST, LONGEST);
            (0..4).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_ne!(delays(), delays());
    }
}
