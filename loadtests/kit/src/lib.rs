//! What `bench` and `faults` share: the environment of a run for its report, errors with exit codes, durations on the
//! command line, and a lock that ignores poisoning.
//!
//! Anything about load, faults or the product belongs to one of the two programs.

mod duration;
mod environment;
mod failure;
mod lock;

pub use self::duration::duration;
pub use self::environment::RunEnvironment;
pub use self::failure::Failure;
pub use self::lock::lock;
