//! Libraries that are preloaded into the roles: they stand between a role and the C library. Each is one file of C, and
//! compiled when its fault is injected; the build of the workspace needs the compiler too.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

const COMPILER: &str = "cc";

/// The source of one.
pub(super) struct Library {
    pub name: &'static str,
    pub source: &'static str,
}

/// Whether libraries can be compiled.
pub(super) fn available() -> Result<(), String> {
    let asked = Command::new(COMPILER).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_there = asked.is_ok_and(|status| status.success());
    is_there.then_some(()).ok_or_else(|| format!("the C compiler {COMPILER} is not installed"))
}

impl Library {
    /// Compiles it into `folder`. Returns the value of `LD_PRELOAD`.
    pub(super) fn compile(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        // The loader of a role resolves it from another working directory.
        let folder = folder.canonicalize().context("folder of the fault suite")?;
        let [source, library] = ["c", "so"].map(|extension| folder.join(self.name).with_extension(extension));
        std::fs::write(&source, self.source)?;
        let mut compiler = Command::new(COMPILER);
        let compiled =
            compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).arg("-ldl").output()?;
        ensure!(compiled.status.success(), "{COMPILER} failed: {}", String::from_utf8_lossy(&compiled.stderr));
        Ok(library)
    }
}
