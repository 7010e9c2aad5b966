//! Options that roles have in common.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use kafka::config::KafkaArgs;
use runtime::config::{FlagParser, PostgresArgs, secret};
use runtime::health::Health;
use runtime::lifecycle::{self, Supervisor};
use runtime::seal::SealingKey;
use runtime::telemetry::logs::LogFormat;

/// How long a process may take to exit after the deadline of its tasks.
const EXIT_MARGIN: Duration = Duration::from_secs(3);

/// Options of every role.
#[derive(Args, Clone)]
pub(crate) struct RoleArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub postgres: PostgresArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
    /// How long a role still works after a signal to stop, while readiness says 503, milliseconds
    #[arg(long, env = "SHUTDOWN_GRACE_MS", default_value_t = 5_000,
          value_parser = clap::value_parser!(u64).range(0..=300_000))]
    pub shutdown_grace_ms: u64,
}

impl RoleArgs {
    /// A supervisor without tasks. A signal shuts it down: first the grace, then the deadline of the tasks. A process
    /// that hangs after that exits.
    pub(crate) fn supervisor(&self, health: &Health) -> Supervisor {
        let grace = Duration::from_millis(self.shutdown_grace_ms);
        let shutdown = lifecycle::shutdown_on_signals(health.clone(), grace);
        lifecycle::exit_within(shutdown.clone(), self.process.shutdown_deadline() + EXIT_MARGIN);
        Supervisor::new(health.clone(), shutdown)
    }
}

/// Options of every long-running process.
#[derive(Args, Clone)]
pub(crate) struct ProcessArgs {
    /// auto: readable text on a terminal, else JSON lines
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// Serve metrics at /metrics
    #[arg(long, env = "PROMETHEUS_ENABLED", default_value_t = true, value_parser = FlagParser,
          action = clap::ArgAction::Set, value_name = "true|false")]
    pub prometheus_enabled: bool,
    /// How long work in progress may take once the grace is over, milliseconds
    #[arg(long, env = "SHUTDOWN_DEADLINE_MS", default_value_t = 15_000,
          value_parser = clap::value_parser!(u64).range(100..=300_000))]
    pub shutdown_deadline_ms: u64,
}

impl ProcessArgs {
    pub(crate) fn shutdown_deadline(&self) -> Duration {
        Duration::from_millis(self.shutdown_deadline_ms)
    }
}

/// Source of the sealing key. It is required: without it, secrets can neither be sealed nor opened.
#[derive(Args, Clone)]
#[group(required = true, multiple = false)]
pub(crate) struct SealingArgs {
    /// Base64 of 32 random bytes, the same on every instance (create one: openssl rand -base64 32)
    #[arg(long, env = "SEALING_KEY", hide_env_values = true, value_parser = secret)]
    sealing_key: Option<String>,
    /// File that contains the sealing key; `ingest` creates a missing file, `dispatcher` does not
    #[arg(long, env = "SEALING_KEY_FILE", value_name = "FILE")]
    sealing_key_file: Option<PathBuf>,
}

impl SealingArgs {
    pub(crate) fn load(&self) -> Result<SealingKey> {
        match (&self.sealing_key, &self.sealing_key_file) {
            (Some(text), _) => SealingKey::from_base64(text).context("SEALING_KEY (--sealing-key)"),
            (None, Some(path)) => SealingKey::load_or_create(path).context("SEALING_KEY_FILE (--sealing-key-file)"),
            (None, None) => anyhow::bail!("SEALING_KEY or SEALING_KEY_FILE must be set"),
        }
    }

    /// For a role that only opens secrets: a new key would open none.
    pub(crate) fn load_existing(&self) -> Result<SealingKey> {
        match (&self.sealing_key, &self.sealing_key_file) {
            (None, Some(path)) => SealingKey::load(path).context(
                "SEALING_KEY_FILE (--sealing-key-file; this role does not create it: give the file that `triggers \
                 ingest` created)",
            ),
            _ => self.load(),
        }
    }
}
