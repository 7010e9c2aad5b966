//! Counts a request in the scopes of its key, and answers when one of them is exceeded.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use http_server::{Problem, RateLimit, RateLimitSlot};

use super::queue::LeaseQueue;
use super::scope::{NotTaken, Scope};
use super::tokens::Quota;
use crate::metrics::METRICS;

/// The scopes of a request. Those of the key come first: their refusals cost the organization nothing.
#[derive(Debug, Clone)]
pub(crate) struct RequestLimits {
    queue: Arc<LeaseQueue>,
    key: Option<Arc<Scope>>,
    organization: Option<Arc<Scope>>,
}

impl RequestLimits {
    pub(super) const fn new(queue: Arc<LeaseQueue>, key: Option<Arc<Scope>>, organization: Option<Arc<Scope>>) -> Self {
        Self { queue, key, organization }
    }

    /// The limit that never holds so many requests at once, if there is one.
    pub(crate) fn exceeded_by(&self, requests: u32) -> Option<u32> {
        let limits = [&self.key, &self.organization].into_iter().flatten().map(|scope| scope.limit());
        limits.min().filter(|limit| requests > *limit)
    }

    /// Counts requests: all or none. Writes the state of the tighter scope into the slot.
    pub(crate) async fn count(&self, requests: u32, slot: &RateLimitSlot) -> Result<(), Problem> {
        let Some(first) = self.key.as_ref().or(self.organization.as_ref()) else { return Ok(()) };
        let from = first.take(requests, &self.queue).await;
        let from = from.map_err(|why| self.refuse(first, why, requests, slot))?;
        let second = self.organization.as_ref().filter(|_| self.key.is_some());
        let mut quota = first.quota(1, &self.queue);
        if let Some(second) = second {
            if let Err(why) = second.take(requests, &self.queue).await {
                first.put_back(requests, from);
                return Err(self.refuse(second, why, requests, slot));
            }
            let other = second.quota(1, &self.queue);
            if other.remaining < quota.remaining {
                quota = other;
            }
        }
        slot.set(rate_limit(quota));
        Ok(())
    }

    fn refuse(&self, scope: &Arc<Scope>, why: NotTaken, requests: u32, slot: &RateLimitSlot) -> Problem {
        METRICS.limits_refused.with_label_values(&[scope.kind.name()]).inc();
        let quota = scope.quota(requests, &self.queue);
        let remaining = quota.remaining.min(requests.saturating_sub(1));
        let rate_limit = RateLimit { remaining, ..rate_limit(quota) };
        let seconds = rate_limit.reset_seconds.max(1);
        slot.set(RateLimit { reset_seconds: seconds, ..rate_limit });
        if why == NotTaken::Unanswered {
            return Problem::unavailable("requests cannot be counted at the moment; nothing was done", 1);
        }
        let detail =
            format!("{} requests a minute for this {}; try again in {seconds} s", quota.limit, scope.kind.noun());
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", detail)
            .with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }
}

fn rate_limit(quota: Quota) -> RateLimit {
    // Rounded up, so that a client that waits exactly this long is not refused again.
    let reset_seconds = u32::try_from(quota.reset_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
    RateLimit { limit: quota.limit, remaining: quota.remaining, reset_seconds }
}
