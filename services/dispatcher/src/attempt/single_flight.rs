//! Work that several wait for is done once at a time: who asks for the same gets the outcome of what is in flight.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

/// Work in flight. Dropping all that wait for it cancels it.
pub(crate) type Flight<T> = Shared<BoxFuture<'static, T>>;
type WeakFlight<T> = WeakShared<BoxFuture<'static, T>>;

pub(crate) struct SingleFlight<K: Hash + Eq, T: Clone>(Arc<Mutex<Flights<K, T>>>);

struct Flights<K, T: Clone> {
    next_number: u64,
    by_key: HashMap<K, (u64, WeakFlight<T>)>,
}

impl<K: Hash + Eq, T: Clone> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Flights { next_number: 0, by_key: HashMap::new() })))
    }
}

impl<K: Hash + Eq + Clone + Send + 'static, T: Clone + Send + Sync + 'static> SingleFlight<K, T> {
    /// The work under this key that is in flight, or what `start` makes. An outcome that is there already is not given
    /// again.
    pub(crate) fn join<F>(&self, key: &K, start: impl FnOnce() -> F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flights = lock(&self.0);
        if let Some(flight) = flights.by_key.get(key).and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        flights.next_number += 1;
        let number = flights.next_number;
        let entry = Entry { flights: self.0.clone(), key: key.clone(), number };
        let work = start();
        let flight = async move {
            // Removed when the work ends or is cancelled.
            let _entry = entry;
            work.await
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            flights.by_key.insert(key.clone(), (number, weak));
        }
        flight
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).by_key.is_empty()
    }
}

struct Entry<K: Hash + Eq, T: Clone> {
    flights: Arc<Mutex<Flights<K, T>>>,
    key: K,
    number: u64,
}

impl<K: Hash + Eq, T: Clone> Drop for Entry<K, T> {
    fn drop(&mut self) {
        let mut flights = lock(&self.flights);
        // Later work under the key may have replaced it.
        if flights.by_key.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            flights.by_key.remove(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_is_in_flight_is_shared_and_then_forgotten() {
        let (flights, count) = (SingleFlight::<u8, usize>::default(), Arc::new(AtomicUsize::new(0)));
        let join = |key: u8| {
            let count = count.clone();
            flights.join(&key, || async move {
                tokio::task::yield_now().await;
                count.fetch_add(1, Ordering::SeqCst) + 1
            })
        };
        let (a, b, other) = tokio::join!(join(1), join(1), join(2));
        assert!(a == b && a != other, "{a} {b} {other}");
        let kept = join(1);
        assert_eq!(kept.clone().await, 3);
        assert_eq!(join(1).await, 4, "an outcome that is there is not given again");
        drop(join(3));
        assert!(flights.is_empty(), "work that nobody waits for is forgotten");
        drop(kept);
    }
}
