//! Any program that must not outlive this process, for tests that start processes of the product. Servers are in
//! `server`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use crate::child::{Child, Launch};
use crate::{Error, Signal, tools};

pub struct Program<'a> {
    pub program: &'a Path,
    pub args: &'a [&'a str],
    /// Its whole environment.
    pub environment: &'a [(String, String)],
    pub folder: &'a Path,
    /// Receives standard output and standard error; an existing file is kept as `.previous`.
    pub output: &'a Path,
}

/// A running or exited process. Dropping it kills it and its children, and so does the exit of this process.
pub struct Process {
    child: Child,
}

impl Process {
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Program<'_>) -> Result<Self, Error> {
        let setpriv = tools::setpriv()?;
        let launch = Launch {
            setpriv: &setpriv,
            program: program.program.to_path_buf(),
            args: program.args.iter().map(OsString::from).collect(),
            folder: program.folder,
            user: None,
            environment: Some(program.environment),
            death_signal: "KILL",
            output: program.output,
        };
        Ok(Self { child: launch.spawn()? })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its exit status, if it has exited.
    #[must_use]
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child.exited()
    }

    /// Sends a signal; does nothing after it has exited.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Waits at most `deadline` until it exits; `None` if it still runs.
    pub async fn ended(&self, deadline: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(deadline, self.child.wait()).await.ok().flatten()
    }
}
