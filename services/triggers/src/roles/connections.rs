//! Connections of a process to Kafka and PostgreSQL.

use anyhow::{Context, Result};
use kafka::KafkaConfig;
use kafka::producer::{Producer, ProducerSettings};
use runtime::postgres;
use sqlx::postgres::PgPool;

use super::args::RoleArgs;

/// Connections that every role needs.
#[derive(Clone)]
pub(crate) struct Connections {
    pub kafka: KafkaConfig,
    pub pool: PgPool,
}

impl Connections {
    pub(crate) fn from_args(args: &RoleArgs) -> Result<Self> {
        let kafka = args.kafka.config()?;
        let pool = postgres::connect(&args.postgres.config()?).context("DATABASE_URL")?;
        Ok(Self { kafka, pool })
    }

    /// A producer that is used until the process exits.
    pub(crate) fn producer(&self, settings: ProducerSettings) -> Result<Producer> {
        let producer = Producer::new(&self.kafka, settings).context("cannot create the Kafka producer")?;
        Ok(producer.kept_open())
    }
}
