//! The system that `triggers up` runs on this machine, as commands find it: by the `dev.json` of its data folder. What
//! is in that file is `up`'s business; talking to the API is `client`'s.

use std::io;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use platform::config::{KafkaArgs, PostgresArgs};
use platform::kafka::KafkaConfig;
use platform::postgres::PostgresConfig;

use crate::up::files::DevJson;

/// Where to look for a local system.
#[derive(Args, Clone)]
pub(crate) struct LocalArgs {
    /// Data folder of `triggers up`
    #[arg(long, env = "TRIGGERS_DATA_DIR", default_value = ".triggers", global = true)]
    data_dir: PathBuf,
}

impl LocalArgs {
    /// What `triggers up` wrote, if it runs here.
    pub(crate) fn dev_json(&self) -> Result<DevJson> {
        DevJson::read(&self.data_dir)
    }

    /// The Kafka that a flag or a variable names, else the local system's, else the default.
    pub(crate) fn kafka(&self, args: &KafkaArgs) -> Result<KafkaConfig> {
        let mut config = args.config()?;
        if args.kafka_brokers.is_none()
            && let Some(dev) = self.running()?
        {
            config.brokers = dev.kafka_brokers;
        }
        Ok(config)
    }

    /// The PostgreSQL that a flag or a variable names, else the local system's, else the default.
    pub(crate) fn postgres(&self, args: &PostgresArgs) -> Result<PostgresConfig> {
        let mut config = args.config()?;
        if args.database_url.is_none()
            && let Some(dev) = self.running()?
        {
            config.url = dev.database_url;
        }
        Ok(config)
    }

    /// A file that is there and cannot be read is an error: the default would be another system.
    fn running(&self) -> Result<Option<DevJson>> {
        match self.dev_json() {
            Ok(dev) => Ok(Some(dev)),
            Err(error)
                if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
