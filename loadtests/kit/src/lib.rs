//! What `bench`, `faults` and `micro` share: the environment of a run for its report, errors with exit codes, durations
//! on the command line, a lock that ignores poisoning, the product's binary, and the payload of events.
//!
//! Anything else about load or faults belongs to one of the programs.

mod duration;
mod environment;
mod failure;
mod lock;
mod order;
mod product;

pub use self::duration::duration;
pub use self::environment::RunEnvironment;
pub use self::failure::Failure;
pub use self::lock::lock;
pub use self::order::{EVENT_TYPE, ORDER_DIGITS, ORDER_START, order};
pub use self::product::{run_command, sealing_key};
pub use schemas::role::Role;
