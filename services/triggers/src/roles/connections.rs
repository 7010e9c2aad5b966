//! The connections of a process: Kafka, PostgreSQL, and the producer.

use anyhow::{Context, Result};
use platform::kafka::KafkaConfig;
use platform::kafka::producer::{Producer, ProducerSettings};
use platform::postgres;
use sqlx::postgres::PgPool;

use super::args::SharedArgs;

/// What every role is made from.
#[derive(Clone)]
pub(crate) struct Connections {
    pub kafka: KafkaConfig,
    pub pool: PgPool,
}

impl Connections {
    pub(crate) fn from_args(args: &SharedArgs) -> Result<Self> {
        let kafka = args.kafka.config()?;
        let pool = postgres::connect(&args.postgres.config()?).context("DATABASE_URL")?;
        Ok(Self { kafka, pool })
    }

    /// A producer that lives as long as the process.
    pub(crate) fn producer(&self, settings: ProducerSettings) -> Result<Producer> {
        let producer = Producer::new(&self.kafka, settings).context("the Kafka producer could not be made")?;
        Ok(producer.never_closed())
    }
}
