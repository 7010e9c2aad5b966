//! Dead letters: records that nobody can read, put aside with the reason.
//!
//! The projector alone writes them (`write`). `letter` says what one is and which record goes back to its topic,
//! `index` which of them are the same one and which are wanted; both are pure. `topic` reads them. Nothing here changes
//! or deletes one. Does not live here: options and output of `triggers dlq`, and writing records again.

mod index;
mod letter;
mod topic;
pub(crate) mod write;

pub use index::{Index, Pick, TooMany, Wanted};
pub use letter::{Again, At, Letter, RecordPlace, Refusal, headers_again};
pub use topic::{DeadLetters, Letters, OpenError};
