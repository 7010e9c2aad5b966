//! Any program that must not outlive this process: started, signalled, awaited. For tests that start the product's own
//! processes.
//!
//! Knows nothing of what it runs; servers are `server`'s business.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use crate::child::{Child, Launch};
use crate::{Error, Signal, tools};

pub struct Program<'a> {
    pub program: &'a Path,
    pub args: &'a [&'a str],
    /// All that its environment holds.
    pub environment: &'a [(String, String)],
    pub folder: &'a Path,
    /// Takes standard output and standard error; an older file of that name is kept as `.previous`.
    pub output: &'a Path,
}

/// A running or ended process. Dropping it kills it and its children; so does the end of this process, however it ends.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it.
    ///
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

    /// How it ended, if it has.
    #[must_use]
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child.exited()
    }

    /// Sends it a signal; an ended one is left in peace.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Waits at most `deadline` for its end; `None` while it runs.
    pub async fn ended(&self, deadline: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(deadline, self.child.wait()).await.ok().flatten()
    }
}
