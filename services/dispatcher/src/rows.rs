//! The tables of deliveries that are not finished: `deliveries_awaiting_dedup` holds those that wait for the duplicate
//! decision, `delivery_schedule` those that wait for an attempt. Only SQL lives here; when a row is due and what its
//! outcome means is decided in `retry_policy`, `intake` and `retries`.
//!
//! All times are the database's clock, so that instances need not agree on theirs.

mod claim;
mod dedup;
mod known;
mod settle;
mod spill;
mod sweep;

pub(crate) use claim::{Claimed, claim, due_endpoints};
pub(crate) use dedup::decide;
pub(crate) use known::scheduled_from;
pub(crate) use settle::{Settlement, hold, settle};
pub(crate) use spill::{NewRow, WaitsFor, insert};
pub(crate) use sweep::{depth, erase, sweep};

/// Attempts are a handful; the column is a signed integer.
fn number(attempts: u32) -> i32 {
    i32::try_from(attempts).unwrap_or(i32::MAX)
}
