//! Retries: claims due rows of the schedule and makes their attempts. The pure core is `policy`,
//! `retry_after` and `turns`.

pub(crate) mod policy;
pub(crate) mod retry_after;
pub(crate) mod schedule;
mod turns;
pub(crate) mod worker;
