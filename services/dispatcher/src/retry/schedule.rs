//! The tables of unfinished deliveries: rows of `deliveries_awaiting_dedup` wait for the duplicate decision, rows of
//! `delivery_schedule` wait for an attempt. Only SQL is here; `policy`, `tracker` and `worker` decide when a row is due
//! and what an outcome means.
//!
//! All times are the database's clock, so that the clocks of instances need not agree.
//!
//! Statements that look for rows are planned at each execution (`persistent(false)`): the tables are nearly empty until
//! an endpoint fails, and a plan of that time reads all of them when they are full.

mod claim;
mod dedup;
mod outcomes;
mod scheduled;
mod spill;
mod sweep;
#[cfg(test)]
mod tests;

pub(crate) use claim::{ClaimedRow, claim, due_endpoints};
pub(crate) use dedup::release_decided;
pub(crate) use outcomes::{LeasedOutcome, hold, write_outcomes};
pub(crate) use scheduled::{ScheduledDeliveries, scheduled_from};
pub(crate) use spill::{NewRow, WaitsFor, insert};
pub(crate) use sweep::{depth, erase, sweep};
