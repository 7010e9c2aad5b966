//! Waits for a condition: looks at it again and again, within a bound.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Looks every so often until there is something.
///
/// # Errors
/// When `look` fails, or when there is nothing `within` this time. The error then names `what` was waited for.
pub(crate) async fn eventually<T>(
    every: Duration,
    within: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looking = async {
        loop {
            ticks.tick().await;
            if let Some(found) = look().await? {
                return Ok(found);
            }
        }
    };
    // Also bounds a look that hangs.
    timeout(within, looking).await.with_context(|| format!("did not happen within {within:?}: {what}"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn it_looks_until_there_is_something() {
        let mut looks = 0;
        let found = eventually(EVERY, Duration::from_secs(60), "the third look", async || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn it_ends_with_an_error_and_with_its_time_also_while_a_look_hangs() {
        let fails = eventually(EVERY, Duration::from_secs(60), "a moon", async || -> Result<Option<()>> {
            anyhow::bail!("no sky")
        });
        assert_eq!(fails.await.unwrap_err().to_string(), "no sky");
        let hangs = async || -> Result<Option<()>> { std::future::pending().await };
        let hung = eventually(EVERY, Duration::from_millis(5), "a moon", hangs).await.unwrap_err();
        assert_eq!(hung.to_string(), "did not happen within 5ms: a moon");
    }
}
