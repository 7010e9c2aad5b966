//! The rules that must hold after each fault: pure functions over what was recorded and what was read.
//!
//! Reading is done elsewhere: `inbox`, `log_reader`, `receiver`.

mod activity;
mod delivered;
mod log;
mod status;
mod stored;
mod violation;

pub(crate) use self::activity::require_activity;
pub(crate) use self::delivered::{Receipt, Redelivery, delivered, delivered_later};
pub(crate) use self::log::{LogEvent, duplicates_justified, view_matches_log};
pub(crate) use self::status::status;
pub(crate) use self::stored::{in_order, stored, tail_complete};
pub(crate) use self::violation::{Duplicates, Violation};
