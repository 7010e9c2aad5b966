//! Look-ups for addresses that have sent too many unknown keys. They wait for their turn, and one query looks many up:
//! a good key from there is answered soon, and all unknown ones together cost one connection.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_server::subscriber;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::auth::{Authenticator, Found, Wanted};

/// Look-ups that wait, for one address and in all.
const MAX_PER_ADDRESS: usize = 1_000;
const MAX_WAITING: usize = 20_000;
/// Keys in one query.
const MAX_KEYS: usize = 500;
/// From one query to the next: it bounds what they cost, and collects the keys of concurrent requests.
const PAUSE: Duration = Duration::from_millis(5);

/// `None`: PostgreSQL did not answer.
type Answer = Option<Found>;

struct Lookup {
    wanted: Wanted,
    answer: oneshot::Sender<Answer>,
}

/// Between requests and the task that looks their keys up.
pub(crate) struct NoisyLookups {
    waiting: Mutex<FairQueue<Lookup>>,
    pushed: Notify,
}

impl NoisyLookups {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::new(FairQueue::new(MAX_PER_ADDRESS, MAX_WAITING)), pushed: Notify::new() }
    }

    /// Asks for a look-up. `None`: too many wait.
    pub(crate) fn push(&self, from: IpAddr, wanted: Wanted) -> Option<oneshot::Receiver<Answer>> {
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_pushed = waiting.push(subscriber(from), Lookup { wanted, answer });
        drop(waiting);
        self.pushed.notify_one();
        is_pushed.then_some(answered)
    }

    fn take(&self) -> Vec<Lookup> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = waiting.take(MAX_KEYS);
        if waiting.len() > 0 {
            self.pushed.notify_one();
        }
        drop(waiting);
        // Without a receiver its request has ended.
        taken.into_iter().filter(|lookup| !lookup.answer.is_closed()).collect()
    }
}

/// Looks keys up until `shutdown`.
pub(crate) async fn run(authenticator: Authenticator, shutdown: CancellationToken) {
    let answering = async {
        loop {
            authenticator.noisy().pushed.notified().await;
            tokio::time::sleep(PAUSE).await;
            answer(&authenticator, authenticator.noisy().take()).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = answering => {}
    }
}

async fn answer(authenticator: &Authenticator, lookups: Vec<Lookup>) {
    let keys: HashSet<&Wanted> = lookups.iter().map(|lookup| &lookup.wanted).collect();
    if keys.is_empty() {
        return;
    }
    let found = authenticator.look_up_in_time(&keys.into_iter().cloned().collect::<Vec<_>>()).await.ok();
    for Lookup { wanted, answer } in lookups {
        // Its request may have ended meanwhile.
        drop(answer.send(found.as_ref().map(|found| found.get(&wanted.hash).cloned())));
    }
}

/// A bounded queue that gives each address its turn. Pure.
struct FairQueue<T> {
    max_per_address: usize,
    max: usize,
    waiting: HashMap<IpAddr, VecDeque<T>>,
    /// The addresses of `waiting`, each once, in the order of their turns.
    turns: VecDeque<IpAddr>,
    len: usize,
}

impl<T> FairQueue<T> {
    fn new(max_per_address: usize, max: usize) -> Self {
        Self { max_per_address, max, waiting: HashMap::new(), turns: VecDeque::new(), len: 0 }
    }

    const fn len(&self) -> usize {
        self.len
    }

    /// `false`: it is full.
    fn push(&mut self, from: IpAddr, item: T) -> bool {
        if self.len >= self.max {
            return false;
        }
        let own = self.waiting.entry(from).or_default();
        if own.len() >= self.max_per_address {
            return false;
        }
        if own.is_empty() {
            self.turns.push_back(from);
        }
        own.push_back(item);
        self.len += 1;
        true
    }

    /// At most `max` items, one of each address in turn.
    fn take(&mut self, max: usize) -> Vec<T> {
        let mut taken = Vec::with_capacity(max.min(self.len));
        while taken.len() < max
            && let Some(from) = self.turns.pop_front()
        {
            let Some(own) = self.waiting.get_mut(&from) else { continue };
            taken.extend(own.pop_front());
            if own.is_empty() {
                self.waiting.remove(&from);
            } else {
                self.turns.push_back(from);
            }
        }
        self.len -= taken.len();
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const fn host(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))
    }

    #[test]
    fn each_address_gets_its_turn() {
        let mut queue = FairQueue::new(100, 1_000);
        for item in 0..5 {
            assert!(queue.push(host(1), (1, item)));
        }
        assert!(queue.push(host(2), (2, 0)) && queue.push(host(3), (3, 0)) && queue.push(host(3), (3, 1)));
        assert_eq!(queue.take(4), [(1, 0), (2, 0), (3, 0), (1, 1)]);
        assert!(queue.push(host(2), (2, 1)));
        assert_eq!(queue.take(100), [(3, 1), (1, 2), (2, 1), (1, 3), (1, 4)]);
        assert!(queue.take(100).is_empty() && queue.waiting.is_empty() && queue.turns.is_empty() && queue.len() == 0);
    }

    #[test]
    fn it_is_bounded_by_address_and_in_all() {
        let mut queue = FairQueue::new(2, 3);
        let pushed = [1, 1, 1, 2, 3].map(|number| queue.push(host(number), number));
        assert_eq!(pushed, [true, true, false, true, false]);
        assert_eq!(queue.take(1), [1]);
        assert!(queue.push(host(3), 3));
    }
}
