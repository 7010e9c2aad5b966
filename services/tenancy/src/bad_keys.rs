//! How often an address presented a bad key lately: guessing is slowed down, and whoever has a good key never notices.
//! Pure: takes `now`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);

/// Bad keys per address and minute, in a table of bounded size.
#[derive(Debug)]
pub(crate) struct BadKeys {
    allowed_per_minute: u32,
    max_addresses: usize,
    windows: HashMap<IpAddr, Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    count: u32,
}

impl BadKeys {
    /// Allows so many a minute, and remembers so many addresses.
    pub(crate) fn new(allowed_per_minute: u32, max_addresses: usize) -> Self {
        Self { allowed_per_minute, max_addresses, windows: HashMap::new() }
    }

    /// Counts a bad key. Answers how long its sender should stay away, if it was one too many.
    pub(crate) fn count(&mut self, from: IpAddr, now: Instant) -> Option<Duration> {
        let from = subscriber(from);
        if !self.windows.contains_key(&from) {
            self.make_room(now);
        }
        let window = self.windows.entry(from).or_insert(Window { began: now, count: 0 });
        if now.duration_since(window.began) >= WINDOW {
            *window = Window { began: now, count: 0 };
        }
        window.count = window.count.saturating_add(1);
        (window.count > self.allowed_per_minute).then(|| WINDOW - now.duration_since(window.began))
    }

    /// Keeps the table bounded at a constant cost per call in the mean. When the addresses of one minute fill it, all
    /// are forgotten: who has that many addresses is not held up by counting them.
    fn make_room(&mut self, now: Instant) {
        if self.windows.len() < self.max_addresses {
            return;
        }
        self.windows.retain(|_, window| now.duration_since(window.began) < WINDOW);
        if self.windows.len() >= self.max_addresses {
            self.windows.clear();
        }
    }
}

/// The part of an address that one subscriber holds: an IPv6 subscriber has a /64 of its own to move in.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
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
    fn the_31st_bad_key_within_a_minute_is_one_too_many_and_a_minute_later_none_is() {
        let mut bad = BadKeys::new(30, 100);
        let start = Instant::now();
        for n in 0..30 {
            assert_eq!(bad.count(HERE, start + Duration::from_millis(n)), None);
        }
        assert_eq!(bad.count(HERE, start + Duration::from_secs(20)), Some(Duration::from_secs(40)));
        assert_eq!(bad.count(HERE, start + Duration::from_secs(60)), None);
    }

    #[test]
    fn addresses_count_apart_but_those_of_one_subscriber_together() {
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
        fn the_table_never_outgrows_its_bound(steps in proptest::collection::vec((any::<u8>(), 0_u64..30), 1..200)) {
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
