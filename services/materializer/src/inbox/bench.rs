//! Cursors, for `loadtests/micro`.

use runtime::seal::SealingKey;
use schemas::ids::OrgId;

use super::cursor::{EpochOffset, InboxCursor};

/// An ascending cursor that has read so many partitions.
pub struct Cursor {
    cursor: InboxCursor,
    sealing: SealingKey,
    organization: OrgId,
}

impl Cursor {
    /// At some offset of each partition.
    pub fn new(partitions: i32) -> Self {
        let offset = |partition| (partition, EpochOffset { log_epoch: 1, offset: 1_000_000 + i64::from(partition) });
        let cursor = InboxCursor::Ascending((0..partitions).map(offset).collect());
        Self { cursor, sealing: SealingKey::from_bytes([7; 32]), organization: OrgId::generate() }
    }

    /// Its token.
    pub fn seal(&self) -> String {
        self.cursor.seal(&self.sealing, self.organization)
    }

    /// Whether the token is this cursor.
    pub fn opens(&self, token: &str) -> bool {
        InboxCursor::open(&self.sealing, self.organization, token).as_ref() == Ok(&self.cursor)
    }
}
