//! Logs and metrics: how they are written. What is worth logging or counting is decided where it happens.

pub mod logs;
pub mod metrics;
mod process;
pub mod throttle;
