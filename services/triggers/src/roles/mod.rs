//! The three roles, and what they have in common: flags (`args`), `connections`, the check of the `topics`, `probes` and
//! the listening socket (`listen`).
//!
//! Each role's own file puts one slice (or, for `ingest`, the routes of all) together from flags. `up` calls the same
//! functions.

mod args;
mod connections;
pub mod dispatcher;
pub mod ingest;
mod listen;
pub mod materializer;
mod probes;
#[cfg(test)]
mod tests;
mod topics;

pub use args::{ProcessArgs, SealingArgs, SharedArgs};
pub use connections::Connections;
pub use listen::bind;
pub use topics::validate_topics;
