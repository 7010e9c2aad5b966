//! Who had more open events than are counted, a moment ago: counting them again at each first page would take more of
//! PostgreSQL than the page itself.

use std::time::Duration;

use moka::sync::Cache;
use schemas::ids::KeyId;

/// How old the answer may be that there are more than are counted.
const FRESH: Duration = Duration::from_secs(1);
/// Beyond it the least used keys are forgotten.
const MAX_KEYS: u64 = 16_384;

/// By key, because a key may see only some types.
pub(crate) struct ManyOpen {
    keys: Cache<KeyId, ()>,
}

impl Default for ManyOpen {
    fn default() -> Self {
        Self { keys: Cache::builder().max_capacity(MAX_KEYS).time_to_live(FRESH).build() }
    }
}

impl ManyOpen {
    /// The key had more open events than are counted.
    pub(super) fn note(&self, key: KeyId) {
        self.keys.insert(key, ());
    }

    /// Whether that was less than a second ago.
    pub(super) fn has(&self, key: KeyId) -> bool {
        self.keys.contains_key(&key)
    }
}
