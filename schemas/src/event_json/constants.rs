//! Size limits of a new event.

/// The largest body of one event, bytes after decompression. The caller that reads the body enforces it.
pub const MAX_BODY_BYTES: usize = 512 * 1024;
/// The largest payload, bytes of its JSON text.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// How deep arrays and objects may be nested; `[[1]]` is 2 deep.
pub const MAX_PAYLOAD_DEPTH: usize = 64;
/// The longest type, source, ordering key, dedup id and metadata key or value, characters.
pub const MAX_TEXT_CHARS: usize = 255;
/// The most metadata pairs.
pub const MAX_METADATA_PAIRS: usize = 32;
/// The most events of one batch.
pub const MAX_BATCH_EVENTS: usize = 1000;
/// Prefix of the event types that only the system itself writes.
pub const RESERVED_TYPE_PREFIX: &str = "triggers.";
