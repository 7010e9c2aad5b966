//! Whether records are read for the first time.

use kafka::producer::Producer;

#[derive(Clone)]
pub(crate) enum ReadMode {
    /// First reading: duplicate decisions are taken, and records that cannot be read become dead letters.
    Live(Producer),
    /// A rebuild or a replay: duplicate decisions are read, not taken. No dead letter is written.
    Replayed,
}
