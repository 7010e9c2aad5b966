//! A small in-memory disk for the data of one server, so that a test can fill it without filling the machine's disk.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::User;
use crate::{Error, files};

/// The file that fills the disk.
const FILLER: &str = "filler";
/// Bytes of one write while filling.
const BLOCK: usize = 64 * 1024;

/// A mounted disk; dropping it unmounts it, and its content is lost.
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts a disk of `mib` MiB at `path`, owned by `user`.
    ///
    /// # Errors
    /// When this process may not mount.
    pub(crate) fn mount(path: &Path, mib: u32, user: Option<&User>) -> Result<Self, Error> {
        files::create_dir(path)?;
        let mut options = format!("size={mib}m,mode=0755");
        if let Some(user) = user {
            options.push_str(&format!(",uid={},gid={}", user.uid, user.gid));
        }
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "triggers-small-disk"]).arg(path);
        let output = command.output().map_err(Error::io("run mount"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::UnusableTool(format!("a small disk could not be mounted: {stderr}")));
        }
        Ok(Self { path: path.to_path_buf() })
    }

    /// Writes until the disk is full.
    pub(crate) fn fill(&self) -> Result<(), Error> {
        let path = self.path.join(FILLER);
        let failed = || Error::io(format!("write {}", path.display()));
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed())?;
        let (block, mut size) = (vec![0_u8; BLOCK], BLOCK);
        while size > 0 {
            match file.write(block.get(..size).unwrap_or_default()) {
                Ok(0) => size /= 2,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => size /= 2,
                Err(error) => return Err(failed()(error)),
            }
        }
        Ok(())
    }

    /// Removes the file that `fill` wrote.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        let path = self.path.join(FILLER);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: a server that was just killed may still use it.
        if !Command::new("umount").arg("-l").arg(&self.path).status().is_ok_and(|status| status.success()) {
            tracing::warn!(path = %self.path.display(), "Small disk could not be unmounted; leaving it mounted");
        }
    }
}
