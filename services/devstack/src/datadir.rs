//! The data folder: its lock, its version record, the folders of the servers, and the removal of temporary folders.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::options::Data;
use crate::tools::{self, User};
use crate::{Error, files};

/// Format in the version record; raised when the layout changes so that older binaries must not open it.
const FORMAT: u32 = 1;
/// Free disk space needed to start, in MiB.
const NEEDED_MIB: u64 = 512;
/// Prefix of temporary folders.
const EPHEMERAL_PREFIX: &str = "triggers-stack-";
/// Their prefix until they are locked.
const UNFINISHED_PREFIX: &str = "triggers-unfinished-";
/// A younger unfinished folder is still being created.
const BEING_MADE: Duration = Duration::from_secs(60);
/// Folder of the servers' files if the user that runs them cannot reach root's data folder.
const SYSTEM_FOLDER: &str = "/var/lib/triggers";

/// The versions that wrote the data, `version.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    /// The newest Kafka that opened the data.
    pub(crate) kafka: Option<String>,
    /// The major version of PostgreSQL that created the data.
    pub(crate) postgres_major: Option<u32>,
    /// Kafka's cluster id: 16 random bytes in base64url.
    pub(crate) cluster_id: String,
    /// The folder of the servers' files, if it is not this folder.
    servers: Option<PathBuf>,
}

/// A locked data folder.
pub(crate) struct DataDir {
    root: PathBuf,
    servers: PathBuf,
    lock: File,
    record: Record,
    reaper: Option<ChildStdin>,
}

impl DataDir {
    /// Creates or opens the folder, locks it, and checks its version. Blocking.
    pub(crate) fn open(data: &Data, user: Option<&User>) -> Result<Self, Error> {
        let (root, lock, reaper) = match data {
            Data::Folder(folder) => open_folder(folder, user)?,
            Data::Ephemeral => create_ephemeral(user)?,
        };
        ensure_space(&root)?;
        let record = read_record(&root)?.map_or_else(|| new_record(&root, user), Ok)?;
        let servers = record.servers.clone().unwrap_or_else(|| root.clone());
        if !servers.is_dir() {
            let problem = format!(
                "keeps its data in {}, which does not exist any more; remove the folder to start with new data",
                servers.display()
            );
            return Err(Error::Version { path: root, problem });
        }
        Ok(Self { root, servers, lock, record, reaper })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one server's files.
    pub(crate) fn server(&self, name: &str) -> PathBuf {
        self.servers.join(name)
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// Refuses data of a newer Kafka.
    pub(crate) fn check_kafka(&self, version: &str) -> Result<(), Error> {
        let Some(written) = self.record.kafka.as_deref() else { return Ok(()) };
        if numbers(written) <= numbers(version) {
            return Ok(());
        }
        let problem =
            format!("was written by Kafka {written}, which Kafka {version} cannot open; use the newer release");
        Err(Error::Version { path: self.root.clone(), problem })
    }

    /// Refuses data of another major version of PostgreSQL.
    pub(crate) fn check_postgres(&self, major: u32) -> Result<(), Error> {
        let Some(written) = self.record.postgres_major.filter(|&written| written != major) else { return Ok(()) };
        let problem = format!(
            "was written by PostgreSQL {written}, which PostgreSQL {major} cannot open; \
             install `postgresql-{written}`, or migrate the data with pg_upgrade"
        );
        Err(Error::Version { path: self.root.clone(), problem })
    }

    /// Stores the versions that have opened the data.
    pub(crate) fn record_versions(&mut self, kafka: Option<String>, postgres_major: Option<u32>) -> Result<(), Error> {
        self.record.kafka = kafka.or_else(|| self.record.kafka.take());
        self.record.postgres_major = postgres_major.or(self.record.postgres_major);
        write_record(&self.root, &self.record)
    }

    /// Writes the holder of the folder into the lock file, for the error of other processes.
    pub(crate) fn describe(&mut self, holder: &str) -> Result<(), Error> {
        let mut write = || {
            self.lock.set_len(0)?;
            self.lock.write_all(holder.as_bytes())
        };
        write().map_err(Error::io(format!("write the lock of {}", self.root.display())))
    }

    /// Removes a temporary folder; another folder is only unlocked. Blocking.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        let Some(reaper) = self.reaper.take() else { return Ok(()) };
        let removed = files::remove_dir(&self.root);
        drop(reaper);
        removed
    }
}

/// A folder, its lock, and the input of the process that removes it if it is temporary.
type Locked = (PathBuf, File, Option<ChildStdin>);

fn open_folder(folder: &Path, user: Option<&User>) -> Result<Locked, Error> {
    if !folder.is_dir() {
        files::create_closed_dir(folder, user)?;
    }
    let root = folder.canonicalize().map_err(Error::io(format!("find {}", folder.display())))?;
    let lock = lock(&root)?;
    Ok((root, lock, None))
}

fn create_ephemeral(user: Option<&User>) -> Result<Locked, Error> {
    let configured = std::env::temp_dir();
    let open = |parent: &PathBuf| tools::barrier(&parent.join("."), user).is_none();
    let parent = Some(configured).filter(open).unwrap_or_else(|| PathBuf::from("/tmp"));
    let parent = parent.canonicalize().map_err(Error::io(format!("find {}", parent.display())))?;
    sweep(&parent);
    let name = &Uuid::new_v4().simple().to_string()[..12];
    let unfinished = parent.join(format!("{UNFINISHED_PREFIX}{name}"));
    let folder = parent.join(format!("{EPHEMERAL_PREFIX}{name}"));
    let mode = if user.is_some() { 0o711 } else { 0o700 };
    // `create` instead of `create_all`: a folder that another user has created is refused.
    let created = fs::DirBuilder::new().mode(mode).create(&unfinished);
    created.map_err(Error::io(format!("create the folder {}", unfinished.display())))?;
    // Locked before the rename: `sweep` in another process removes unlocked folders with the final prefix.
    let lock = lock(&unfinished)?;
    fs::rename(&unfinished, &folder).map_err(Error::io(format!("create the folder {}", folder.display())))?;
    let reaper = spawn_reaper(&folder)?;
    Ok((folder, lock, Some(reaper)))
}

/// Removes temporary folders whose holder has exited. The lock shows that across containers, a process id does not.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
        let age = meta.modified().ok().and_then(|made| made.elapsed().ok()).unwrap_or_default();
        let unfinished = name.starts_with(UNFINISHED_PREFIX) && age > BEING_MADE;
        let abandoned = name.starts_with(EPHEMERAL_PREFIX) && is_unlocked(&path);
        if ours && (unfinished || abandoned) && fs::remove_dir_all(&path).is_ok() {
            tracing::debug!(folder = %path.display(), "Removed the temporary folder of an earlier run");
        }
    }
}

fn is_unlocked(folder: &Path) -> bool {
    match OpenOptions::new().write(true).open(folder.join("lock")) {
        Ok(lock) => lock.try_lock().is_ok(),
        // Its holder is removing the folder.
        Err(_) => true,
    }
}

/// Starts a shell that removes the folder when its input is closed, which happens whenever this process exits.
fn spawn_reaper(folder: &Path) -> Result<ChildStdin, Error> {
    // The servers die at the same moment and may still write for an instant: hence the second round.
    // A small disk that is mounted below would keep its folder.
    let script =
        r#"cat >/dev/null; for wait in 0.2 2; do sleep $wait; umount -l "$0"/*/data 2>/dev/null; rm -rf -- "$0"; done"#;
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).arg(folder).current_dir("/").process_group(0);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(Error::io("start /bin/sh"))?;
    child.stdin.ok_or_else(|| Error::io("open the input of /bin/sh")(std::io::ErrorKind::BrokenPipe.into()))
}

fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let action = format!("open {}", path.display());
    let open = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
    let mut file = open.map_err(Error::io(action.clone()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // A holder that has just started has written nothing yet.
            let has_holder = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
            let holder = if has_holder { holder.trim().to_owned() } else { "another process".into() };
            Err(Error::InUse { path: root.to_path_buf(), holder })
        }
        Err(TryLockError::Error(error)) => Err(Error::io(action)(error)),
    }
}

fn ensure_space(root: &Path) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(root)
        .map_err(|errno| Error::io(format!("read the free space of the disk of {}", root.display()))(errno.into()))?;
    let free_mib = stat.f_bavail.saturating_mul(stat.f_frsize) / (1024 * 1024);
    if free_mib < NEEDED_MIB {
        return Err(Error::DiskFull { path: root.to_path_buf(), free_mib, needed_mib: NEEDED_MIB });
    }
    Ok(())
}

fn read_record(root: &Path) -> Result<Option<Record>, Error> {
    let path = root.join("version.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(format!("read {}", path.display()))(error)),
    };
    let version = |problem: String| Error::Version { path: root.to_path_buf(), problem };
    let parsed: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| version(format!("has a version.json that cannot be read ({error})")))?;
    let format = parsed.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if format != u64::from(FORMAT) {
        return Err(version(format!("has format {format}, and this release knows format {FORMAT} only")));
    }
    let record = serde_json::from_value(parsed);
    record.map(Some).map_err(|error| version(format!("has a version.json that cannot be read ({error})")))
}

fn new_record(root: &Path, user: Option<&User>) -> Result<Record, Error> {
    let mut servers = None;
    if let Some(barrier) = tools::barrier(&root.join("lock"), user) {
        let folder = Path::new(SYSTEM_FOLDER).join(Uuid::new_v4().simple().to_string());
        tracing::info!(
            closed = %barrier.display(), folder = %folder.display(),
            "The user of the servers cannot enter the folder; keeping their files elsewhere",
        );
        files::create_closed_dir(Path::new(SYSTEM_FOLDER), user)?;
        files::create_closed_dir(&folder, user)?;
        servers = Some(folder);
    }
    let record = Record { format: FORMAT, kafka: None, postgres_major: None, cluster_id: cluster_id(), servers };
    write_record(root, &record)?;
    Ok(record)
}

fn write_record(root: &Path, record: &Record) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(record).map_err(|error| Error::io("write version.json")(error.into()))?;
    files::replace(&root.join("version.json"), &text, 0o644)
}

fn cluster_id() -> String {
    loop {
        let id = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(Uuid::new_v4());
        // Kafka's formatter parses a leading dash as an option.
        if !id.starts_with('-') {
            return id;
        }
    }
}

/// The numbers of a dotted version, for comparison.
fn numbers(version: &str) -> Vec<u32> {
    version.split(['.', '-']).map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(numbers("4.10.0") > numbers("4.9.2"));
        assert!(numbers("4.3.1") < numbers("5.0.0"));
        assert_eq!(numbers("4.3.1-rc0"), [4, 3, 1]);
    }
}
