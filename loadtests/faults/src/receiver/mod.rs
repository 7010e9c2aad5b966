//! The webhook receiver: an HTTP server of the suite's own that records every request and can misbehave.

mod request;
mod server;
mod signature;

pub(crate) use self::server::{Receiver, ReceiverBehavior};
