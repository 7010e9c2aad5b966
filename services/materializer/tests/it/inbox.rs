//! Reading the inbox, on a real PostgreSQL. The rows are put into the view as the projector would: a transaction each,
//! with the position.

mod access;
mod cost;
mod filters;
mod fresh;
mod gap;
pub(crate) mod harness;
mod paging;
mod single;
