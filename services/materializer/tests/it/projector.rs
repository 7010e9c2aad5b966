//! The projector, on a real Kafka and a real PostgreSQL: what each kind of record becomes, and that it becomes so
//! exactly once.

mod acks;
mod behind;
mod dead_letters;
pub(crate) mod deliveries;
mod duplicates;
mod events;
pub(crate) mod harness;
mod hostile;
mod leaderless;
mod markers;
mod outage;
mod ownership;
mod reconcile;
pub(crate) mod retention;
mod stalls;
mod system_events;
mod undecodable;
