//! Acknowledging, on a real Kafka and a real PostgreSQL.

mod log;
mod routes;
