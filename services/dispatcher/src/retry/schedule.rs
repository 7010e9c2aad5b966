//! The tables of unfinished deliveries: rows of `deliveries_awaiting_dedup` wait for the duplicate decision, rows of
//! `delivery_schedule` wait for an attempt, with their events in `delivery_events`. `endpoint_queues` says of which
//! endpoints rows are due, `ordered_lanes` of which lanes of ordered endpoints, `delivery_usage` what each organization
//! has open. Transactions lock rows in this order: deliveries, events, lanes, queues, usage, successes; only a claim
//! locks queues first, then lanes, and waits for nothing after that. Only SQL is here; `policy`, `tracker` and `worker`
//! decide when a row is due and what an outcome means.
//!
//! All times are the database's clock, so that the clocks of instances need not agree.
//!
//! Statements that look for rows are planned at each execution (`persistent(false)`): the tables are nearly empty until
//! an endpoint fails, and a plan of that time reads all of them when they are full.

mod again;
mod candidates;
mod claim;
mod dedup;
mod events;
mod lanes;
mod outcomes;
mod queues;
mod replayed;
pub(crate) mod scale;
mod scheduled;
mod spill;
mod sweep;
#[cfg(test)]
mod tests;
mod trial;
mod usage;

pub(crate) use again::{RetryOutcome, retry_now, start_rounds};
pub(crate) use candidates::candidates;
pub(crate) use claim::{Chosen, ClaimedRow, Wanted, claim, claim_chosen, claim_refused};
pub(crate) use dedup::release_decided;
pub(crate) use lanes::{claim_first, free_lanes};
pub(crate) use outcomes::{LeasedOutcome, write_outcomes};
pub(crate) use queues::{NextDue, hold, lock_due, make_due, next_due, release, reset};
pub(crate) use replayed::start_replayed;
pub(crate) use scheduled::{ScheduledDeliveries, scheduled_from};
pub(crate) use spill::{NewRow, WaitsFor, insert};
pub(crate) use sweep::{EndedCursor, depth, end_schedules, erase, sweep};
pub(crate) use trial::schedule_test;
pub use usage::OpenLimits;
pub(crate) use usage::beyond;
