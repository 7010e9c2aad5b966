//! First attempts: reads the events topic, matches events to endpoints, and commits positions together with the rows of
//! unfinished deliveries. The pure core is `tracker`, `ledger`, `fair_queues`, `queues`
//! and `read_ahead`.

pub(crate) mod commit;
pub(crate) mod duplicates;
pub(crate) mod fair_queues;
pub(crate) mod ledger;
pub(crate) mod queues;
pub(crate) mod read_ahead;
pub(crate) mod record;
pub(crate) mod tracker;
pub(crate) mod worker;
