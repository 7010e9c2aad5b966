//! One child process: it dies with this process, can be awaited from any runtime, and can be signalled.
//!
//! Independent of Kafka and PostgreSQL.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::Error;
use crate::tools::User;

/// How often a condition on a process is checked.
const POLL: Duration = Duration::from_millis(20);
/// How long a process of an earlier run may take to exit without a signal.
const LEFTOVER_GRACE: Duration = Duration::from_secs(3);
/// After this, a process of an earlier run that does not exit is an error.
const LEFTOVER_DEADLINE: Duration = Duration::from_secs(15);

type Request = (Command, mpsc::SyncSender<io::Result<std::process::Child>>);

/// The thread that spawns all children. The kernel sends the death signal when the spawning thread ends, not the
/// process, so this thread must live as long as the process.
static SPAWNER: LazyLock<io::Result<mpsc::Sender<Request>>> = LazyLock::new(|| {
    let (requests, inbox) = mpsc::channel::<Request>();
    let serve = move || {
        for (mut command, reply) in inbox {
            // The receiver is dropped only if the caller's thread ended; then the child's pipes close as well.
            drop(reply.send(command.spawn()));
        }
    };
    thread::Builder::new().name("devstack-spawner".into()).spawn(serve)?;
    Ok(requests)
});

/// A command, the user that runs it, and its death signal.
pub(crate) struct Launch<'a> {
    pub(crate) setpriv: &'a Path,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) folder: &'a Path,
    /// The user that runs it; `None`: the user of this process.
    pub(crate) user: Option<&'a User>,
    /// Its whole environment; `None`: the `INHERITED` variables of this process.
    pub(crate) environment: Option<&'a [(String, String)]>,
    /// The signal it gets when this process dies: `KILL`, `QUIT`.
    pub(crate) death_signal: &'static str,
    /// Receives standard output and standard error.
    pub(crate) output: &'a Path,
}

impl Launch<'_> {
    /// Spawns it in its own process group, so that Ctrl-C in a terminal reaches only this process, which stops it
    /// gracefully.
    pub(crate) fn spawn(&self) -> Result<Child, Error> {
        // Keeps the output of the previous run; the two files together are bounded by two runs.
        drop(fs::rename(self.output, self.output.with_extension("previous")));
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.output);
        let output = options.map_err(Error::io(format!("write {}", self.output.display())))?;
        let errors = output.try_clone().map_err(Error::io("share a log file"))?;
        let mut command = Command::new(self.setpriv);
        // setpriv sets the death signal after it has changed the user; a change of the user resets the signal.
        command.arg("--pdeathsig").arg(self.death_signal);
        if let Some(user) = self.user {
            command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid)).arg("--clear-groups");
        }
        command.arg("--").arg(&self.program).args(&self.args);
        command.current_dir(self.folder).process_group(0);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        command.env_clear().envs(self.environment.map_or_else(|| inherited(&[]), <[_]>::to_vec));
        if self.user.is_some() && self.environment.is_none() {
            command.env("HOME", self.folder);
        }
        let name = self.program.display();
        Child::spawn(command).map_err(Error::io(format!("start {name}")))
    }
}

/// Variables that servers get of this process. Another one may be a secret, which `/proc` would show to the user of the
/// server, or a setting of a client or another server.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "JAVA_HOME"];

/// The variables of this process that a child gets: `INHERITED`, and those that start with one of `prefixes`.
pub(crate) fn inherited(prefixes: &[&str]) -> Vec<(String, String)> {
    let is_inherited = |name: &str| INHERITED.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix));
    // A value that is no text is left out.
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).filter(|(name, _)| is_inherited(name)).collect()
}

/// A running or exited child.
pub(crate) struct Child {
    pid: Pid,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Child {
    fn spawn(command: Command) -> io::Result<Self> {
        let spawner = SPAWNER.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let (reply, answer) = mpsc::sync_channel(1);
        spawner.send((command, reply)).map_err(io::Error::other)?;
        let mut child = answer.recv().map_err(io::Error::other)??;
        let pid = Pid::from_child(&child);
        let (exited, exit) = watch::channel(None);
        // One thread per child instead of tokio's reaper, because the child outlives the runtime that spawned it.
        let wait = move || {
            if let Ok(status) = child.wait() {
                exited.send_replace(Some(status));
            }
        };
        thread::Builder::new().name("devstack-waiter".into()).spawn(wait)?;
        Ok(Self { pid, exit })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until it has exited. `None` if that could not be observed.
    pub(crate) async fn wait(&self) -> Option<ExitStatus> {
        let mut exit = self.exit.clone();
        exit.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    /// Sends a signal to the process only; does nothing after it has exited.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.exited().is_none() {
            // The only possible error is that it has just exited.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Sends a signal to the process and its children. Each backend of PostgreSQL has its own process group.
    pub(crate) fn signal_family(&self, signal: Signal) {
        if self.exited().is_some() {
            return;
        }
        let children = children_of(self.pid());
        self.signal(signal);
        for pid in children {
            send(pid, signal);
        }
    }

    /// Stops it with `signal`, and kills it and its children after `grace`.
    pub(crate) async fn stop(&self, signal: Signal, grace: Duration) {
        self.signal(signal);
        // A process halted by SIGSTOP handles no other signal until SIGCONT.
        self.signal_family(Signal::CONT);
        if tokio::time::timeout(grace, self.wait()).await.is_err() {
            self.signal_family(Signal::KILL);
            self.wait().await;
        }
    }

    /// Sends `signal`, waits without a runtime, and kills it and its children at the deadline. For use in `Drop`.
    pub(crate) fn stop_blocking(&self, signal: Signal, deadline: Duration) {
        self.signal(signal);
        self.signal_family(Signal::CONT);
        let until = Instant::now() + deadline;
        while self.exited().is_none() && Instant::now() < until {
            thread::sleep(POLL);
        }
        self.signal_family(Signal::KILL);
    }
}

impl Drop for Child {
    /// No child outlives its owner, such as a start that is cancelled.
    fn drop(&mut self) {
        self.signal_family(Signal::KILL);
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // The only possible error is that it has just exited.
        let _ = kill_process(pid, signal);
    }
}

fn all_pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn children_of(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name is in parentheses and may contain anything; the parent is the second field after it.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(1).and_then(|field| field.parse().ok()) == Some(parent)
    };
    all_pids().into_iter().filter(is_child).collect()
}

/// The processes called `name` whose working directory is `folder`.
fn working_in(folder: &Path, name: &str) -> Vec<u32> {
    let works_here = |pid: &u32| {
        let cwd: Option<PathBuf> = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        cwd.as_deref() == Some(folder) && comm.trim_end() == name
    };
    all_pids().into_iter().filter(works_here).collect()
}

/// Waits for the servers of an earlier run on `folder` to exit, and kills them after a grace period.
///
/// The caller must hold the lock of the data folder; then any process that works there has lost its parent.
pub(crate) async fn stop_leftovers(folder: &Path, name: &str) -> Result<(), Error> {
    let folder = folder.canonicalize().map_err(Error::io(format!("find {}", folder.display())))?;
    let start = Instant::now();
    let mut logged = false;
    loop {
        let left = working_in(&folder, name);
        let Some(&pid) = left.first() else { return Ok(()) };
        if start.elapsed() > LEFTOVER_DEADLINE {
            return Err(Error::Leftover { pid, path: folder });
        }
        if start.elapsed() > LEFTOVER_GRACE {
            if !logged {
                let folder = folder.display();
                tracing::warn!(pid, %folder, "Process {name} of an earlier run still works in the folder; killing it");
                logged = true;
            }
            left.iter().for_each(|&pid| send(pid, Signal::KILL));
        }
        tokio::time::sleep(POLL).await;
    }
}
