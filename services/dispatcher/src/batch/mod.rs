//! Batched delivery: one request carries several events of an endpoint. Its settings (`settings`), which deliveries go
//! together (`gather`), when a batch that failed is split (`split`), and how much may be in flight (`bytes`). All of it
//! is pure. The log worker and the retry worker gather; `attempt` sends.

pub(crate) mod bytes;
pub(crate) mod gather;
pub(crate) mod settings;
pub(crate) mod split;
