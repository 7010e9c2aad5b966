//! Counts sign-ups per client address and hour. Loopback is not limited.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_server::Problem;

use crate::bad_keys::BadKeys;

const HOUR: Duration = Duration::from_secs(3_600);
const MAX_ADDRESSES: usize = 10_000;

/// Cloning shares the counts.
#[derive(Debug, Clone)]
pub(crate) struct Signups(Arc<Mutex<BadKeys>>);

impl Signups {
    pub(crate) fn new(allowed_per_hour: u32) -> Self {
        Self(Arc::new(Mutex::new(BadKeys::with_window(HOUR, allowed_per_hour, MAX_ADDRESSES))))
    }

    /// Counts an attempt of this address, whatever becomes of it.
    ///
    /// # Errors
    /// 429 when the address has tried too often.
    pub(crate) fn admit(&self, from: IpAddr) -> Result<(), Problem> {
        if from.to_canonical().is_loopback() {
            return Ok(());
        }
        let wait = self.0.lock().unwrap_or_else(PoisonError::into_inner).count(from, Instant::now());
        let Some(wait) = wait else { return Ok(()) };
        let seconds = u32::try_from(wait.as_secs() + 1).unwrap_or(u32::MAX);
        Err(Problem::too_many_requests("too many sign-ups from this address", seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_sign_up_of_an_address_is_refused() {
        let signups = Signups::new(5);
        for from in ["192.0.2.1", "192.0.2.2"] {
            for _ in 0..5 {
                assert!(signups.admit(from.parse().unwrap()).is_ok());
            }
            let refused = signups.admit(from.parse().unwrap()).unwrap_err();
            assert_eq!(refused.error_code(), "rate_limited", "{from}");
        }
        assert!((0..20).all(|_| signups.admit("127.0.0.1".parse().unwrap()).is_ok()), "loopback is not limited");
    }
}
