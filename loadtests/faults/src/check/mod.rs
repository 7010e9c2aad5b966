//! The rules that must hold after each fault: pure functions over what was recorded and what was read.
//!
//! Reading is done elsewhere: `inbox`, `log_reader`, `receiver`.

mod activity;
mod delivered;
mod log;
mod status;
mod stored;
mod violation;

pub use self::activity::require_activity;
pub use self::delivered::{Receipt, Redelivery, delivered, delivered_later};
pub use self::log::{LogEvent, duplicates_justified, view_matches_log};
pub use self::status::status;
pub use self::stored::{in_order, stored, tail_complete};
pub use self::violation::{Duplicates, Violation};
