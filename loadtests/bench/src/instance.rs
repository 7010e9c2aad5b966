//! Processes of the role `ingest` beside a running system.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::process::{Child, Command};

use crate::control_client::ControlClient;
use crate::eventually::eventually;
use crate::metrics;
use crate::target::{Address, Target};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A process of the role `ingest`; killed when dropped.
pub(crate) struct Instance {
    pub address: Address,
    pub control: ControlClient,
    metrics: ControlClient,
    process: Child,
}

impl Instance {
    /// Starts `program` on Kafka and PostgreSQL of `target`, with further settings.
    pub(crate) async fn start(target: &Target, program: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let (listen, metrics_listen) = (free_address()?, free_address()?);
        let setting = |value: &Option<String>, name| value.clone().with_context(|| format!("dev.json has no {name}"));
        let process = Command::new(program)
            .arg("ingest")
            .env("LISTEN", &listen)
            .env("METRICS_LISTEN", &metrics_listen)
            .env("OPERATOR_TOKEN", setting(&target.operator_token, "operator_token")?)
            .env("DATABASE_URL", setting(&target.database_url, "database_url")?)
            .env("KAFKA_BROKERS", setting(&target.kafka_brokers, "kafka_brokers")?)
            .env("SEALING_KEY_FILE", target.data_dir.join("sealing.key"))
            .env("RUST_LOG", "error")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let parse = |listen: &str| {
            Address::parse(&format!("http://{listen}"), false).map_err(|_| anyhow::anyhow!("no address: {listen}"))
        };
        let address = parse(&listen)?;
        let (control, metrics) =
            (ControlClient::new(&address)?, ControlClient::new(&parse(&format!("{metrics_listen}/metrics"))?)?);
        let mut instance = Self { address, control, metrics, process };
        instance.wait_until_ready().await?;
        Ok(instance)
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let what = format!("{} is ready", self.address.url());
        eventually(Duration::from_millis(200), START_TIMEOUT, &what, async || {
            let ended = self.process.try_wait()?;
            ensure!(ended.is_none(), "the process of the role ingest ended: {ended:?}");
            Ok(matches!(self.control.get("/health/ready", "").await, Ok((200, _))).then_some(()))
        })
        .await
    }

    /// The value of a counter without labels.
    pub(crate) async fn counter(&self, name: &str) -> anyhow::Result<f64> {
        metrics::value(&self.metrics, name).await
    }
}

/// Free at this moment. A process that finds it taken ends, and the run fails.
fn free_address() -> anyhow::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
