//! materializer

mod acks;
pub mod inbox;
