//! The order in which the events of one request are appended.
//!
//! Each event takes a turn when it is read. It is submitted to Kafka after every event with an earlier turn was
//! submitted, or left without.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The turns of one request.
#[derive(Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Default)]
struct State {
    /// Number of the first turn that was not left.
    first: usize,
    /// Whether each turn from `first` on was left.
    left: VecDeque<bool>,
}

/// The turn of one event. Dropping it leaves.
pub(crate) struct Turn<'a> {
    /// `None`: left, or the only event of its request.
    turns: Option<&'a Turns>,
    number: usize,
}

impl Turns {
    /// The next turn.
    pub(crate) fn take(&self) -> Turn<'_> {
        let mut state = self.state();
        let number = state.first + state.left.len();
        state.left.push_back(false);
        Turn { turns: Some(self), number }
    }

    /// Whether all turns were left.
    pub(crate) fn all_left(&self) -> bool {
        self.state().left.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, number: usize) {
        let mut state = self.state();
        if let Some(left) = number.checked_sub(state.first).and_then(|at| state.left.get_mut(at)) {
            *left = true;
        }
        let before = state.first;
        while state.left.front() == Some(&true) {
            state.left.pop_front();
            state.first += 1;
        }
        let has_moved = state.first > before;
        drop(state);
        if has_moved {
            self.moved.notify_waiters();
        }
    }
}

impl Turn<'_> {
    /// The turn of a request's only event.
    pub(crate) const fn only() -> Self {
        Self { turns: None, number: 0 }
    }

    /// Waits until all earlier turns were left.
    pub(crate) async fn wait(&self) {
        let Some(turns) = self.turns else { return };
        loop {
            let mut moved = std::pin::pin!(turns.moved.notified());
            // Registered before the check, so that no move between the two is missed.
            moved.as_mut().enable();
            if turns.state().first >= self.number {
                return;
            }
            moved.await;
        }
    }

    /// Lets the later events go first from now on.
    pub(crate) fn leave(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.leave(self.number);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_due(turn: &Turn<'_>) -> bool {
        turn.wait().now_or_never().is_some()
    }

    #[test]
    fn a_turn_waits_for_all_earlier_ones() {
        let turns = Turns::default();
        assert!(turns.all_left());
        let (first, mut second, third) = (turns.take(), turns.take(), turns.take());
        assert_eq!([&first, &second, &third].map(is_due), [true, false, false]);
        second.leave();
        assert_eq!([&first, &third].map(is_due), [true, false]);
        drop(first);
        assert!(is_due(&third));
        let fourth = turns.take();
        assert!(!is_due(&fourth));
        drop(third);
        assert!(!turns.all_left());
        assert!(is_due(&fourth) && is_due(&Turn::only()));
    }

    #[tokio::test]
    async fn a_waiting_turn_is_woken() {
        let turns = Turns::default();
        let (first, second) = (turns.take(), turns.take());
        tokio::join!(second.wait(), async {
            tokio::task::yield_now().await;
            drop(first);
        });
    }
}
