//! The three roles, and what they share: options (`args`), `connections`, the checks of the `topics` and the `schema`,
//! health `probes`, and the listening socket (`listen`).
//!
//! The file of a role connects its parts from the options. `triggers up` calls the same functions.

mod api_description;
mod args;
mod connections;
pub(crate) mod dispatcher;
mod http;
pub(crate) mod ingest;
mod listen;
pub(crate) mod materializer;
mod probes;
mod schema;
#[cfg(test)]
mod tests;
mod topics;

#[cfg(test)]
pub(crate) use api_description::api_description;
pub(crate) use args::{ProcessArgs, RoleArgs, SealingArgs};
pub(crate) use connections::Connections;
pub(crate) use http::{HttpArgs, HttpOptions};
pub(crate) use listen::bind;
pub(crate) use topics::validate_topics;
