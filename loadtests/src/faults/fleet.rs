//! The system under test as processes: instances of each role, each on a port of its own, killed, halted and started
//! again by name.
//!
//! What a role is told (servers, knobs) is put together in `system`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use devstack::{Process, Program, Signal};

use super::ledger::lock;

/// How long a role may take until it is ready, with Kafka and PostgreSQL up.
const READY: Duration = Duration::from_secs(90);
/// How long a role may take to end after it was asked to.
const END: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Serves the HTTP API.
    Ingest,
    /// Builds the view.
    Materializer,
    /// Delivers webhooks.
    Dispatcher,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Materializer, Self::Dispatcher];

    /// The binary's command.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Materializer => "materializer",
            Self::Dispatcher => "dispatcher",
        }
    }
}

/// One instance, running or not.
pub struct Instance {
    /// What it does.
    pub role: Role,
    /// `ingest-0`; also its user on PostgreSQL.
    pub name: String,
    port: u16,
    environment: Vec<(String, String)>,
    /// Laid over the environment until taken away: a fault's own knobs.
    extra: Mutex<Vec<(String, String)>>,
    process: Mutex<Option<Process>>,
}

/// All instances.
pub struct Fleet {
    binary: PathBuf,
    folder: PathBuf,
    http: reqwest::Client,
    instances: Vec<Instance>,
    starts: AtomicU32,
}

impl Fleet {
    /// Instances of `binary` that log into `folder`. None runs yet.
    pub fn new(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        Ok(Self {
            binary: binary.to_path_buf(),
            folder: folder.to_path_buf(),
            http,
            instances: Vec::new(),
            starts: AtomicU32::new(0),
        })
    }

    /// Adds an instance.
    pub fn add(&mut self, role: Role, name: String, mut environment: Vec<(String, String)>) -> anyhow::Result<()> {
        let port = devstack::free_port()?;
        let variable = if role == Role::Ingest { "LISTEN" } else { "METRICS_LISTEN" };
        environment.push((variable.to_owned(), format!("127.0.0.1:{port}")));
        let (extra, process) = (Mutex::default(), Mutex::default());
        self.instances.push(Instance { role, name, port, environment, extra, process });
        Ok(())
    }

    /// All instances.
    pub fn all(&self) -> &[Instance] {
        &self.instances
    }

    /// Those of one role.
    pub fn of(&self, role: Role) -> Vec<&Instance> {
        self.instances.iter().filter(|instance| instance.role == role).collect()
    }

    /// The base URL of each instance of `ingest`.
    pub fn base_urls(&self) -> Vec<String> {
        self.of(Role::Ingest).iter().map(|instance| instance.base_url()).collect()
    }

    /// Starts it; nothing to do if it runs.
    pub fn start(&self, instance: &Instance) -> anyhow::Result<()> {
        let mut process = lock(&instance.process);
        if process.as_ref().is_some_and(|process| process.exited().is_none()) {
            return Ok(());
        }
        let number = self.starts.fetch_add(1, Relaxed);
        let output = self.folder.join(format!("{}-{number:03}.log", instance.name));
        let extra = lock(&instance.extra).clone();
        let environment = [instance.environment.clone(), extra].concat();
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

    /// Starts these and returns when all are ready.
    pub async fn start_ready(&self, instances: &[&Instance]) -> anyhow::Result<()> {
        instances.iter().try_for_each(|instance| self.start(instance))?;
        for instance in instances {
            self.ready(instance).await?;
        }
        Ok(())
    }

    /// Waits until it is ready.
    pub async fn ready(&self, instance: &Instance) -> anyhow::Result<()> {
        let begun = Instant::now();
        let url = format!("{}/health/ready", instance.base_url());
        loop {
            if let Ok(reply) = self.http.get(&url).send().await
                && reply.status().is_success()
            {
                return Ok(());
            }
            if let Some(status) = instance.exited() {
                bail!("{} ended by itself: {status}; its log is in {}", instance.name, self.folder.display());
            }
            if begun.elapsed() > READY {
                bail!(
                    "{} was not ready within {} s; its log is in {}",
                    instance.name,
                    READY.as_secs(),
                    self.folder.display()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks it to end and waits; killed, and `false`, when it does not end in time or says that something went wrong.
    pub async fn terminate(&self, instance: &Instance) -> bool {
        let Some(process) = lock(&instance.process).take() else { return true };
        process.signal(Signal::TERM);
        // A dropped process is killed.
        process.ended(END).await.is_some_and(|status| status.success())
    }

    /// Ends all that runs and starts it anew with `extra` in its environment. Answers who did not end in order, a
    /// sentence each.
    pub async fn restart_all(&self, extra: &[(String, String)]) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        for instance in &self.instances {
            *lock(&instance.extra) = extra.to_vec();
            if !self.terminate(instance).await {
                wrong.push(format!("{} did not end in order after SIGTERM", instance.name));
            }
            self.start(instance)?;
        }
        for instance in &self.instances {
            self.ready(instance).await?;
        }
        Ok(wrong)
    }

    /// The names of those that ended although nobody ended them.
    pub fn ended_alone(&self) -> Vec<String> {
        let ended = |instance: &&Instance| instance.exited().is_some();
        self.instances.iter().filter(ended).map(|instance| instance.name.clone()).collect()
    }
}

impl Instance {
    /// Where it answers.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sends it a signal. A killed one is awaited, so that its port is free.
    pub async fn signal(&self, signal: Signal) {
        if signal == Signal::KILL {
            let Some(process) = lock(&self.process).take() else { return };
            process.signal(signal);
            let _status = process.ended(END).await;
        } else if let Some(process) = lock(&self.process).as_ref() {
            process.signal(signal);
        }
    }

    /// Lays knobs over its environment, from its next start on.
    pub fn set_extra(&self, extra: &[(&str, &str)]) {
        *lock(&self.extra) = extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    fn exited(&self) -> Option<String> {
        Some(lock(&self.process).as_ref()?.exited()?.to_string())
    }
}
