//! Dead letters: records that cannot be read or accepted, stored in their own topic with the reason.
//!
//! Only the projector writes them (`write`). `letter` parses one and makes the record to redrive, `index` finds
//! distinct and matching letters; both are pure. `topic` reads them. Nothing here changes or deletes a dead letter.
//! Does not live here: options and output of `triggers dlq`, and writing records to their topics again.

mod index;
mod letter;
mod topic;
pub(crate) mod write;

pub use index::{Index, Pick, TooMany, Wanted};
pub use letter::{Again, At, Letter, RecordPlace, Refusal, headers_again};
pub use topic::{DeadLetters, Letters, OpenError};
