//! A `triggers` process as a child of the test: its output, its port, its end, and the processes below it.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use devstack::Signal;
use devstack::testing::{eventually, processes};
use rustix::process::{Pid, kill_process};
use tokio::process::{Child, ChildStdin, Command};

/// How long a start may take on a busy machine; `up` starts a JVM and makes a database.
const START: Duration = Duration::from_secs(90);
/// How long an end may take: the roles' deadline, then Kafka's and PostgreSQL's.
pub(crate) const END: Duration = Duration::from_secs(60);

static STARTED: AtomicU32 = AtomicU32::new(0);

/// The binary's options, which must not come from the environment of the caller of the tests.
const OPTIONS: [&str; 22] = [
    "ACCEPT_TIMEOUT_MS",
    "DATABASE_URL",
    "DEV_API_KEYS",
    "INSTANCE_NAME",
    "KAFKA_BROKERS",
    "KAFKA_PROPERTIES",
    "LISTEN",
    "LOG_FORMAT",
    "METRICS_LISTEN",
    "OPEN_SIGNUP",
    "OPERATOR_TOKEN",
    "RUST_LOG",
    "SEALING_KEY",
    "SEALING_KEY_FILE",
    "SHUTDOWN_DEADLINE_MS",
    "SHUTDOWN_GRACE_MS",
    "TOPIC_PARTITIONS",
    "TOPIC_PREFIX",
    "TRIGGERS_API_KEY",
    "TRIGGERS_DATA_DIR",
    "TRIGGERS_PORT",
    "TRIGGERS_URL",
];

/// The binary under test, started in `folder`.
pub(crate) fn triggers(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_triggers"));
    for name in OPTIONS {
        command.env_remove(name);
    }
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A running process. Dropping it kills it and waits until what it started is gone too.
pub(crate) struct Process {
    name: String,
    child: Child,
    pid: u32,
    output: PathBuf,
    /// Open, so that it can be shown although its folder is gone: what owns the folder may be dropped first.
    log: File,
}

impl Process {
    /// Starts `command` with its two outputs in files of `folder`: a pipe that nobody empties would stop it.
    pub(crate) fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let output = folder.join(format!("{name}-{number}.out"));
        let log = folder.join(format!("{name}-{number}.log"));
        command.stdout(File::create(&output).unwrap()).stderr(File::create(&log).unwrap());
        let log = File::open(log).unwrap();
        let child = command.spawn().unwrap();
        let pid = child.id().unwrap();
        Self { name: name.to_owned(), child, pid, output, log }
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("started with a pipe")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Not yet collected, so the id is still its own.
        kill_process(Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        match tokio::time::timeout(END, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("{} did not end within {END:?}", self.name),
        }
    }

    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    /// What it wrote to standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(format!("/proc/self/fd/{}", self.log.as_raw_fd())).unwrap()
    }

    /// Waits until `text` was printed.
    pub(crate) async fn printed(&self, text: &str) {
        eventually(START, &format!("{} prints {text:?}", self.name), || async {
            self.assert_runs();
            self.output().contains(text).then_some(())
        })
        .await;
    }

    /// Waits for the port that it listens on. With port 0 only its log names it.
    pub(crate) async fn port(&self) -> u16 {
        eventually(START, &format!("{} listens", self.name), || async {
            self.assert_runs();
            listening_ports(&self.log()).first().copied()
        })
        .await
    }

    /// Its base URLs by now: first that of [`Self::port`].
    pub(crate) fn listens_at(&self) -> Vec<String> {
        listening_ports(&self.log()).iter().map(|port| format!("http://127.0.0.1:{port}")).collect()
    }

    /// Waits until it says that it is ready, and answers its base URL.
    pub(crate) async fn ready(&self) -> String {
        let base_url = format!("http://127.0.0.1:{}", self.port().await);
        let url = format!("{base_url}/health/ready");
        let http = crate::api::http();
        eventually(START, &format!("{} is ready", self.name), || async {
            self.assert_runs();
            http.get(&url).send().await.ok()?.status().is_success().then_some(())
        })
        .await;
        base_url
    }

    /// All processes below it, each with its name.
    pub(crate) fn family(&self) -> Vec<(u32, String)> {
        processes::descendants(self.pid)
    }

    fn assert_runs(&self) {
        assert!(processes::running(self.pid).is_some(), "{} ended by itself:\n{}", self.name, tail(&self.log()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the end of {}'s log:\n{}", self.name, tail(&self.log()));
        }
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let below = self.family();
        drop(self.child.start_kill());
        let begun = Instant::now();
        let left = |child: &mut Child| matches!(child.try_wait(), Ok(None)) || processes::any_left(&below);
        // The folder below them is removed next.
        while left(&mut self.child) && begun.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The ports in the lines of the log that say where the process listens. The first is the API's, or that for health and
/// metrics of a role without one.
fn listening_ports(log: &str) -> Vec<u16> {
    let port = |line: &str| {
        let (_, rest) = line.split_once("127.0.0.1:")?;
        rest.split_once('"')?.0.parse().ok()
    };
    log.lines().filter(|line| line.contains("\"Listening\"")).filter_map(port).collect()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
