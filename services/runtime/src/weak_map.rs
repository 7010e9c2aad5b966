//! A map of values that others own: it finds a value for as long as somebody has it, and does not keep it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// Entries whose value nobody owns are removed when the map has grown to twice the number that had an owner last time.
#[derive(Debug)]
pub struct WeakMap<K, V> {
    entries: HashMap<K, Weak<V>>,
    sweep_at: usize,
}

const SMALLEST_SWEEP: usize = 16;

impl<K, V> Default for WeakMap<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), sweep_at: SMALLEST_SWEEP }
    }
}

impl<K: Hash + Eq, V> WeakMap<K, V> {
    /// The value of `key`; a new one if nobody has it.
    pub fn get_or_insert(&mut self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        if let Some(found) = self.entries.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, value| value.strong_count() > 0);
            self.sweep_at = (2 * self.entries.len()).max(SMALLEST_SWEEP);
        }
        let made = Arc::new(make());
        self.entries.insert(key, Arc::downgrade(&made));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_while_somebody_has_it() {
        let mut map = WeakMap::default();
        let kept: Vec<Arc<u32>> = (0..10).map(|key| map.get_or_insert(key, || key)).collect();
        assert!(Arc::ptr_eq(&kept[3], &map.get_or_insert(3, || 99)));
        for key in 10..1_000 {
            drop(map.get_or_insert(key, || key));
        }
        assert!(map.entries.len() <= 2 * SMALLEST_SWEEP, "values without an owner are removed");
        assert!(Arc::ptr_eq(&kept[0], &map.get_or_insert(0, || 99)));
    }
}
