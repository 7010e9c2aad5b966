//! The three roles, and what they have in common: flags (`args`), `connections`, the check of the `topics`, `probes` and
//! the listening socket (`listen`).
//!
//! Each role's own file puts one slice (or, for `ingest`, the routes of all) together from flags. `up` calls the same
//! functions.

mod args;
mod connections;
pub(crate) mod dispatcher;
pub(crate) mod ingest;
mod listen;
pub(crate) mod materializer;
mod probes;
#[cfg(test)]
mod tests;
mod topics;

pub(crate) use args::{ProcessArgs, SealingArgs, SharedArgs};
pub(crate) use connections::Connections;
pub(crate) use listen::bind;
pub(crate) use topics::validate_topics;
