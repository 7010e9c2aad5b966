//! The processes of the system under test: instances of each role, each on its own port, which are started, terminated,
//! killed and halted.
//!
//! Their options are chosen in `system`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use devstack::{Process, Program, Signal};
use loadkit::{Role, lock};
use runtime::http_client;

/// How long an instance may take to be ready, with Kafka and PostgreSQL up.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// How long an instance may take to exit after SIGTERM or SIGKILL.
const EXIT_TIMEOUT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);
/// Where all instances are.
const LOCAL: &str = "http://127.0.0.1";

/// An instance of a role, running or not.
pub(crate) struct Instance {
    pub role: Role,
    /// Such as `ingest-0`.
    pub name: String,
    port: u16,
    environment: Vec<(String, String)>,
    /// Laid over the environment: options that a fault sets.
    overrides: Mutex<Vec<(String, String)>>,
    process: Mutex<Option<Process>>,
}

/// All instances of the system.
pub(crate) struct Fleet {
    binary: PathBuf,
    folder: PathBuf,
    http: reqwest::Client,
    instances: Vec<Instance>,
    starts: AtomicU32,
}

impl Fleet {
    /// A fleet without instances; they run `binary` and log into `folder`.
    pub(crate) fn new(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        let http = http_client::builder(LOCAL).timeout(Duration::from_secs(2)).build()?;
        Ok(Self {
            binary: binary.to_path_buf(),
            folder: folder.to_path_buf(),
            http,
            instances: Vec::new(),
            starts: AtomicU32::new(0),
        })
    }

    /// Adds an instance; it is not started.
    pub(crate) fn add(
        &mut self,
        role: Role,
        name: String,
        mut environment: Vec<(String, String)>,
    ) -> anyhow::Result<()> {
        let port = devstack::free_port()?;
        let variable = if role == Role::Ingest { "LISTEN" } else { "METRICS_LISTEN" };
        environment.push(("METRICS_LISTEN".to_owned(), "127.0.0.1:0".to_owned()));
        environment.push((variable.to_owned(), format!("127.0.0.1:{port}")));
        let (overrides, process) = (Mutex::default(), Mutex::default());
        self.instances.push(Instance { role, name, port, environment, overrides, process });
        Ok(())
    }

    /// The instances of one role.
    pub(crate) fn of(&self, role: Role) -> Vec<&Instance> {
        self.instances.iter().filter(|instance| instance.role == role).collect()
    }

    /// The base URL of each instance of `ingest`.
    pub(crate) fn base_urls(&self) -> Vec<String> {
        self.of(Role::Ingest).iter().map(|instance| instance.base_url()).collect()
    }

    /// Starts the instance unless it runs.
    pub(crate) fn start(&self, instance: &Instance) -> anyhow::Result<()> {
        let mut process = lock(&instance.process);
        if process.as_ref().is_some_and(|process| process.exited().is_none()) {
            return Ok(());
        }
        let number = self.starts.fetch_add(1, Relaxed);
        let output = self.folder.join(format!("{}-{number:03}.log", instance.name));
        let overrides = lock(&instance.overrides).clone();
        let environment = [instance.environment.clone(), overrides].concat();
        let program = Program {
            program: &self.binary,
            args: &[instance.role.name()],
            environment: &environment,
            folder: &self.folder,
            output: &output,
        };
        *process = Some(Process::start(&program).with_context(|| format!("starting {}", instance.name))?);
        Ok(())
    }

    /// Starts all instances and waits until they are ready.
    pub(crate) async fn start_all(&self) -> anyhow::Result<()> {
        self.instances.iter().try_for_each(|instance| self.start(instance))?;
        for instance in &self.instances {
            self.wait_ready(instance).await?;
        }
        Ok(())
    }

    /// Waits until the instance is ready.
    pub(crate) async fn wait_ready(&self, instance: &Instance) -> anyhow::Result<()> {
        let started = Instant::now();
        let url = format!("{}/health/ready", instance.base_url());
        loop {
            if let Ok(reply) = self.http.get(&url).send().await
                && reply.status().is_success()
            {
                return Ok(());
            }
            if let Some(status) = instance.exited() {
                bail!("{} exited unexpectedly: {status}; its log is in {}", instance.name, self.folder.display());
            }
            if started.elapsed() > READY_TIMEOUT {
                bail!(
                    "{} was not ready within {} s; its log is in {}",
                    instance.name,
                    READY_TIMEOUT.as_secs(),
                    self.folder.display()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends SIGTERM and waits for the exit. Returns `false` if the instance fails or has to be killed.
    pub(crate) async fn terminate(&self, instance: &Instance) -> bool {
        let Some(process) = lock(&instance.process).take() else { return true };
        process.signal(Signal::TERM);
        // Dropping a process kills it.
        process.ended(EXIT_TIMEOUT).await.is_some_and(|status| status.success())
    }

    /// Restarts all instances with `overrides` laid over their environment. Returns what failed, one sentence each.
    pub(crate) async fn restart_all(&self, overrides: &[(String, String)]) -> anyhow::Result<Vec<String>> {
        let mut failures = Vec::new();
        for instance in &self.instances {
            *lock(&instance.overrides) = overrides.to_vec();
            if !self.terminate(instance).await {
                failures.push(format!("{} did not exit cleanly after SIGTERM", instance.name));
            }
            self.start(instance)?;
        }
        for instance in &self.instances {
            self.wait_ready(instance).await?;
        }
        Ok(failures)
    }

    /// Restarts the instances of one role, one after the other, with `overrides` laid over their environment. Returns
    /// what failed, one sentence each.
    pub(crate) async fn restart_in_turn(&self, role: Role, overrides: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
        let mut failures = Vec::new();
        for instance in self.of(role) {
            instance.set_overrides(overrides);
            if !self.terminate(instance).await {
                failures.push(format!("{} did not exit cleanly after SIGTERM", instance.name));
            }
            self.start(instance)?;
            self.wait_ready(instance).await?;
        }
        Ok(failures)
    }

    /// Names of the instances that exited although the suite did not stop them.
    pub(crate) fn exited_unexpectedly(&self) -> Vec<String> {
        let has_exited = |instance: &&Instance| instance.exited().is_some();
        self.instances.iter().filter(has_exited).map(|instance| instance.name.clone()).collect()
    }
}

impl Instance {
    /// The base URL of its HTTP server.
    pub(crate) fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sends a signal. After SIGKILL it waits for the exit, so that the port is free.
    pub(crate) async fn signal(&self, signal: Signal) {
        if signal == Signal::KILL {
            let Some(process) = lock(&self.process).take() else { return };
            process.signal(signal);
            let _status = process.ended(EXIT_TIMEOUT).await;
        } else if let Some(process) = lock(&self.process).as_ref() {
            process.signal(signal);
        }
    }

    /// The user that it connects to PostgreSQL as.
    pub(crate) fn database_user(&self) -> String {
        database_user(&self.name)
    }

    /// Sets options that are laid over its environment from its next start on.
    pub(crate) fn set_overrides(&self, options: &[(&str, &str)]) {
        *lock(&self.overrides) =
            options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    fn exited(&self) -> Option<String> {
        Some(lock(&self.process).as_ref()?.exited()?.to_string())
    }
}

/// The database user of the instance of this name.
pub(crate) fn database_user(instance: &str) -> String {
    format!("instance_{}", instance.replace('-', "_"))
}
