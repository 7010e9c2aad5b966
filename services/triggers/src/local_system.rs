//! Finds the system that `triggers up` runs on this machine, by the `dev.json` in its data folder.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use kafka::KafkaConfig;
use kafka::config::KafkaArgs;
use runtime::config::PostgresArgs;
use runtime::postgres::PostgresConfig;

use crate::up::files::DevJson;

/// Data folder of `triggers up`, unless another is given.
pub(crate) const DEFAULT_DATA_DIR: &str = ".triggers";

/// How long a command waits for a connection, at least.
const COMMAND_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Location of a local system.
#[derive(Args, Clone)]
pub(crate) struct LocalSystemArgs {
    /// Data folder of `triggers up`
    #[arg(long, env = "TRIGGERS_DATA_DIR", default_value = DEFAULT_DATA_DIR, global = true)]
    data_dir: PathBuf,
}

impl LocalSystemArgs {
    /// The `dev.json` of `triggers up`; an error if it does not run here.
    pub(crate) fn dev_json(&self) -> Result<DevJson> {
        DevJson::read(&self.data_dir)
    }

    /// The Kafka that an option or variable names; else the local system's; else the default.
    pub(crate) fn kafka(&self, args: &KafkaArgs) -> Result<KafkaConfig> {
        let mut config = args.config()?;
        if args.kafka_brokers.is_none()
            && let Some(dev) = self.find_dev_json()?
        {
            config.brokers = dev.kafka_brokers;
        }
        Ok(config)
    }

    /// The PostgreSQL that an option or variable names; else the local system's; else the default.
    pub(crate) fn postgres(&self, args: &PostgresArgs) -> Result<PostgresConfig> {
        let mut config = args.config()?;
        if args.database_url.is_none()
            && let Some(dev) = self.find_dev_json()?
        {
            config.url = dev.database_url;
        }
        // A request is refused after a short wait, so that others find a place. A command is worth a longer one.
        config.acquire_timeout = config.acquire_timeout.max(COMMAND_ACQUIRE_TIMEOUT);
        Ok(config)
    }

    /// `None`: no file. A file that exists and cannot be read is an error: the default would be another system.
    fn find_dev_json(&self) -> Result<Option<DevJson>> {
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
