//! Load on all routes, at a moderate rate: the machine is not the limit, and every outcome is accounted for.
//!
//! Each sender has one request in flight and one ordering key. So the order in which its events are accepted is the
//! order in which they must be shown.

mod acknowledger;
mod context;
mod http;
mod native;
mod probe;
mod running;
mod sender;
mod tail;

pub(crate) use self::context::{RoundContext, Tenant};
pub(crate) use self::probe::probe_all;
pub(crate) use self::running::Load;
