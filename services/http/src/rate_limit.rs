//! The headers that say what a rate limit has left. The extractor of the API key fills the slot in the context of the
//! request; the request layer writes the headers into the answer, whatever that is.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue};

const LIMIT: [HeaderName; 2] =
    [HeaderName::from_static("ratelimit-limit"), HeaderName::from_static("x-ratelimit-limit")];
const REMAINING: [HeaderName; 2] =
    [HeaderName::from_static("ratelimit-remaining"), HeaderName::from_static("x-ratelimit-remaining")];
const RESET: [HeaderName; 2] =
    [HeaderName::from_static("ratelimit-reset"), HeaderName::from_static("x-ratelimit-reset")];

/// The state of a rate limit after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests allowed within the window.
    pub limit: u32,
    /// Requests allowed now.
    pub remaining: u32,
    /// Seconds until more are allowed.
    pub reset_seconds: u32,
}

/// Where the rate limit of a request is kept. Cloning shares it. Empty: the request has no limit.
#[derive(Debug, Clone, Default)]
pub struct RateLimitSlot(Arc<Mutex<Option<RateLimit>>>);

impl RateLimitSlot {
    /// Replaces what was there.
    pub fn set(&self, rate_limit: RateLimit) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(rate_limit);
    }

    /// What was set last.
    pub fn get(&self) -> Option<RateLimit> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds each value under its standard name and under the name that old clients read.
    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        let Some(RateLimit { limit, remaining, reset_seconds }) = self.get() else { return };
        for (names, value) in [(LIMIT, limit), (REMAINING, remaining), (RESET, reset_seconds)] {
            let value = HeaderValue::from(value);
            for name in names {
                headers.insert(name, value.clone());
            }
        }
    }
}
