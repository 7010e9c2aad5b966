//! One round: new organizations, load, a fault during the load, recovery, quiet, and then everything is compared. And
//! the final check of all rounds at the end of a run.

mod compare;
mod final_check;
mod outcomes;
mod rebalances;
mod run;

pub(crate) use self::final_check::final_check;
pub(crate) use self::outcomes::{Outcomes, RoundOptions, RoundResult};
pub(crate) use self::run::run;
