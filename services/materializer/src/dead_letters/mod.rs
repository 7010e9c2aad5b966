//! Dead letters: records that cannot be read or accepted, stored in their own topic with the reason.
//!
//! Only the projector writes them (`write`). `dead_letter` parses one and prepares the record to redrive. `index` finds
//! distinct and matching dead letters. Both are pure. `topic` reads the topic. Nothing here changes or deletes a dead
//! letter. The options and the output of `triggers dlq`, and the writing of redriven records, are in `triggers`.

mod dead_letter;
mod index;
mod topic;
pub(crate) mod write;

pub use dead_letter::{DeadLetter, PartitionOffset, RecordPosition, RedriveRecord, RedriveRefusal};
pub use index::{DeadLetterFilter, DeadLetterIndex, FoundDeadLetter, TooManyDeadLetters};
pub use topic::{DeadLetterReader, DeadLetterTopic, OpenError};
