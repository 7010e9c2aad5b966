//! Counts bad keys per client address and minute, to slow down guessing. Requests with a valid key are never limited.
//! Pure: takes `now`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use http_server::subscriber;

const WINDOW: Duration = Duration::from_secs(60);

/// Bad keys per address and minute, for a bounded number of addresses.
#[derive(Debug)]
pub(crate) struct BadKeys {
    window: Duration,
    allowed: u32,
    max_addresses: usize,
    windows: HashMap<IpAddr, Window>,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    count: u32,
}

impl BadKeys {
    pub(crate) fn new(allowed_per_minute: u32, max_addresses: usize) -> Self {
        Self::with_window(WINDOW, allowed_per_minute, max_addresses)
    }

    /// Counts per `window` instead of per minute.
    pub(crate) fn with_window(window: Duration, allowed: u32, max_addresses: usize) -> Self {
        Self { window, allowed, max_addresses, windows: HashMap::new() }
    }

    /// How long this address should wait, if it has exceeded the limit. Counts nothing.
    pub(crate) fn wait(&self, from: IpAddr, now: Instant) -> Option<Duration> {
        let window = self.windows.get(&subscriber(from)).filter(|window| window.count > self.allowed)?;
        self.window.checked_sub(now.duration_since(window.start)).filter(|wait| !wait.is_zero())
    }

    /// Counts a bad key. Returns how long the client should wait, if it exceeded the limit.
    pub(crate) fn count(&mut self, from: IpAddr, now: Instant) -> Option<Duration> {
        let from = subscriber(from);
        if !self.windows.contains_key(&from) {
            self.make_room(now);
        }
        let window = self.windows.entry(from).or_insert(Window { start: now, count: 0 });
        if now.duration_since(window.start) >= self.window {
            *window = Window { start: now, count: 0 };
        }
        window.count = window.count.saturating_add(1);
        (window.count > self.allowed).then(|| self.window - now.duration_since(window.start))
    }

    /// Keeps the table bounded, at constant amortized cost. If the addresses of one minute fill it, all are removed:
    /// counting does not slow down an attacker with that many addresses.
    fn make_room(&mut self, now: Instant) {
        if self.windows.len() < self.max_addresses {
            return;
        }
        let length = self.window;
        self.windows.retain(|_, window| now.duration_since(window.start) < length);
        if self.windows.len() >= self.max_addresses {
            self.windows.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn the_31st_bad_key_within_a_minute_exceeds_the_limit() {
        let mut bad = BadKeys::new(30, 100);
        let start = Instant::now();
        for n in 0..30 {
            assert_eq!(bad.count(HERE, start + Duration::from_millis(n)), None);
        }
        assert_eq!(bad.wait(HERE, start), None);
        assert_eq!(bad.count(HERE, start + Duration::from_secs(20)), Some(Duration::from_secs(40)));
        assert_eq!(bad.wait(HERE, start + Duration::from_secs(30)), Some(Duration::from_secs(30)));
        assert_eq!(bad.wait(HERE, start + Duration::from_secs(60)), None);
        assert_eq!(bad.count(HERE, start + Duration::from_secs(60)), None);
    }

    #[test]
    fn addresses_are_counted_per_subscriber() {
        let mut bad = BadKeys::new(1, 100);
        let now = Instant::now();
        let mut count = |address: &str| bad.count(address.parse().unwrap(), now).is_some();
        assert!(!count("192.0.2.1"));
        assert!(!count("192.0.2.2"));
        assert!(count("::ffff:192.0.2.1"));
        assert!(!count("2001:db8::1"));
        assert!(count("2001:db8::2"));
        assert!(!count("2001:db8:0:1::1"));
    }

    proptest! {
        #[test]
        fn the_table_never_exceeds_its_bound(steps in proptest::collection::vec((any::<u8>(), 0_u64..30), 1..200)) {
            let mut bad = BadKeys::new(3, 5);
            let mut now = Instant::now();
            for (host, seconds) in steps {
                now += Duration::from_secs(seconds);
                let wait = bad.count(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), now);
                prop_assert!(wait.is_none_or(|wait| wait <= WINDOW));
                prop_assert!(bad.windows.len() <= 5);
            }
        }
    }
}
