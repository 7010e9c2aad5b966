//! Budgets: how much of something may be held at once, in all and by one holder (an organization, a key, a peer
//! address), so that none of them can take everything.
//!
//! A budget counts requests, bytes, connections or waiting reads; it does not know what it counts. A refusal is
//! immediate: nothing waits here, except in [`Share::take_when_free`].

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tokio::sync::Notify;

use crate::telemetry::metrics;
use crate::weak_map::WeakMap;

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    held: metrics::int_gauge_vec(
        "triggers_budget_held",
        "What is held of a budget of this process now, in the unit of the budget's name.",
        &["budget"],
    ),
    refused: metrics::counter_vec(
        "triggers_budget_refused_total",
        "Refusals by a budget; bound: `all` when the process holds too much, `holder` when one organization, key or \
         address does.",
        &["budget", "bound"],
    ),
});

struct Metrics {
    held: IntGaugeVec,
    refused: IntCounterVec,
}

/// A bound in all and for each holder. Cloning shares it.
#[derive(Clone)]
pub struct Budget(Arc<BudgetState>);

struct BudgetState {
    max_in_all: u64,
    max_per_holder: u64,
    held: AtomicU64,
    held_metric: IntGauge,
    refused_in_all: IntCounter,
    refused_to_holder: IntCounter,
}

/// Why a budget refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// This holder has its share: it must give something back first.
    Holder,
    /// All holders together have everything.
    All,
}

impl Budget {
    /// `name`: what is counted, with its unit; the label of the metrics. Bounds are in that unit.
    pub fn new(name: &str, max_in_all: u64, max_per_holder: u64) -> Self {
        Self(Arc::new(BudgetState {
            max_in_all,
            max_per_holder,
            held: AtomicU64::new(0),
            held_metric: METRICS.held.with_label_values(&[name]),
            refused_in_all: METRICS.refused.with_label_values(&[name, "all"]),
            refused_to_holder: METRICS.refused.with_label_values(&[name, "holder"]),
        }))
    }

    /// The share of one more holder, who keeps it.
    pub fn share(&self) -> Share {
        self.share_of(self.0.max_per_holder)
    }

    /// The share of a holder that may hold everything.
    pub fn unbounded_share(&self) -> Share {
        self.share_of(self.0.max_in_all)
    }

    fn share_of(&self, max: u64) -> Share {
        Share(Arc::new(self.share_state(max)))
    }

    fn share_state(&self, max: u64) -> ShareState {
        ShareState { budget: self.clone(), max, held: AtomicU64::new(0), freed: Notify::new() }
    }

    /// What all holders hold now.
    pub fn held(&self) -> u64 {
        self.0.held.load(Ordering::Relaxed)
    }

    /// The bound in all.
    pub fn max_in_all(&self) -> u64 {
        self.0.max_in_all
    }
}

/// What one holder may hold of a budget. Cloning shares it.
#[derive(Clone)]
pub struct Share(Arc<ShareState>);

struct ShareState {
    budget: Budget,
    max: u64,
    held: AtomicU64,
    /// Wakes one waiter when something is given back.
    freed: Notify,
}

impl Share {
    /// Takes `amount` until the permit is dropped.
    ///
    /// # Errors
    /// When the holder or all together would hold more than they may.
    pub fn take(&self, amount: u64) -> Result<Permit, Exhausted> {
        self.add(amount).inspect_err(|exhausted| self.count_refusal(*exhausted))?;
        Ok(Permit { share: self.clone(), amount })
    }

    /// Takes `amount`; while the holder itself has too much, waits until it has given something back, at most `within`.
    /// Waiters come in their order.
    ///
    /// # Errors
    /// When that takes too long, or when all together hold too much.
    pub async fn take_when_free(&self, amount: u64, within: Duration) -> Result<Permit, Exhausted> {
        let taking = async {
            loop {
                let freed = self.0.freed.notified();
                match self.add(amount) {
                    Err(Exhausted::Holder) => freed.await,
                    outcome => return outcome,
                }
            }
        };
        let outcome = match self.add(amount) {
            Err(Exhausted::Holder) => tokio::time::timeout(within, taking).await.unwrap_or(Err(Exhausted::Holder)),
            outcome => outcome,
        };
        outcome.inspect_err(|exhausted| self.count_refusal(*exhausted))?;
        Ok(Permit { share: self.clone(), amount })
    }

    /// What the holder holds now.
    pub fn held(&self) -> u64 {
        self.0.held.load(Ordering::Relaxed)
    }

    fn add(&self, amount: u64) -> Result<(), Exhausted> {
        let budget = &self.0.budget.0;
        // Added first and taken back when it is too much: near a bound two takers may refuse each other, but what is
        // granted never exceeds it.
        if !add_within(&budget.held, amount, budget.max_in_all) {
            return Err(Exhausted::All);
        }
        if !add_within(&self.0.held, amount, self.0.max) {
            budget.held.fetch_sub(amount, Ordering::Relaxed);
            return Err(Exhausted::Holder);
        }
        budget.held_metric.add(metric_value(amount));
        Ok(())
    }

    fn give_back(&self, amount: u64) {
        let budget = &self.0.budget.0;
        self.0.held.fetch_sub(amount, Ordering::Relaxed);
        budget.held.fetch_sub(amount, Ordering::Relaxed);
        budget.held_metric.sub(metric_value(amount));
        self.0.freed.notify_one();
    }

    fn count_refusal(&self, exhausted: Exhausted) {
        match exhausted {
            Exhausted::Holder => self.0.budget.0.refused_to_holder.inc(),
            Exhausted::All => self.0.budget.0.refused_in_all.inc(),
        }
    }
}

fn add_within(held: &AtomicU64, amount: u64, max: u64) -> bool {
    let before = held.fetch_add(amount, Ordering::Relaxed);
    let fits = before.saturating_add(amount) <= max;
    if !fits {
        held.fetch_sub(amount, Ordering::Relaxed);
    }
    fits
}

fn metric_value(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// Something taken from a budget, until it is dropped.
#[must_use]
pub struct Permit {
    share: Share,
    amount: u64,
}

impl Permit {
    /// Takes `more`.
    ///
    /// # Errors
    /// As for [`Share::take`]; the permit keeps what it has.
    pub fn grow(&mut self, more: u64) -> Result<(), Exhausted> {
        self.share.add(more).inspect_err(|exhausted| self.share.count_refusal(*exhausted))?;
        self.amount += more;
        Ok(())
    }

    /// Gives back what is above `amount`.
    pub fn shrink_to(&mut self, amount: u64) {
        let excess = self.amount.saturating_sub(amount);
        if excess > 0 {
            self.amount = amount;
            self.share.give_back(excess);
        }
    }

    /// What it holds.
    pub fn amount(&self) -> u64 {
        self.amount
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share.give_back(self.amount);
    }
}

/// The shares of holders that are known only by a key, such as an address. A share exists while something is held of
/// it, so there are never more than permits.
pub struct KeyedShares<K> {
    budget: Budget,
    shares: Mutex<WeakMap<K, ShareState>>,
}

impl<K: Eq + Hash> KeyedShares<K> {
    /// No holder has anything yet.
    pub fn new(budget: Budget) -> Self {
        Self { budget, shares: Mutex::default() }
    }

    /// The share of the holder `key`.
    pub fn of(&self, key: K) -> Share {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        Share(shares.get_or_insert(key, || self.budget.share_state(self.budget.0.max_per_holder)))
    }
}

#[cfg(test)]
mod tests;
