//! Retries: claims due rows of the schedule and makes their attempts. The pure core is `policy` and `retry_after`.

pub(crate) mod policy;
pub(crate) mod retry_after;
pub(crate) mod schedule;
pub(crate) mod worker;
