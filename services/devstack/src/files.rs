//! File operations with the path in the error: write with a mode, change the owner, read the end of a log.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use crate::Error;
use crate::tools::User;

/// Bytes of the end of a log that an error shows.
const TAIL_BYTES: u64 = 1200;

pub(crate) fn create_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io(format!("create the folder {}", path.display())))
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    let permissions = Permissions::from_mode(mode);
    fs::set_permissions(path, permissions).map_err(Error::io(format!("set the mode of {}", path.display())))
}

pub(crate) fn write(path: &Path, content: &str, mode: u32) -> Result<(), Error> {
    let attempt = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(path)?;
        file.write_all(content.as_bytes())
    };
    attempt().map_err(Error::io(format!("write {}", path.display())))
}

/// Replaces the file with one that only `user` can read.
pub(crate) fn write_private(path: &Path, content: &str, user: Option<&User>) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io(format!("replace {}", path.display()))(error));
        }
        _ => write(path, content, 0o600)?,
    }
    give_to(path, user)
}

/// Creates the folder if it is missing. Only `user`, who owns it, can read what is in it; so it is also made of one
/// that exists.
pub(crate) fn create_private_dir(path: &Path, user: Option<&User>) -> Result<(), Error> {
    create_dir(path)?;
    set_mode(path, 0o700)?;
    give_to(path, user)
}

/// Creates the folder if it is missing. `user` may enter it, but nobody may list it; so it is also made of one that
/// exists.
pub(crate) fn create_closed_dir(path: &Path, user: Option<&User>) -> Result<(), Error> {
    create_dir(path)?;
    set_mode(path, if user.is_some() { 0o711 } else { 0o700 })
}

/// Writes a temporary file and renames it, so that a reader sees either the old or the new content, also after a crash.
pub(crate) fn replace(path: &Path, content: &str, mode: u32) -> Result<(), Error> {
    let next = path.with_extension("next");
    write(&next, content, mode)?;
    fs::rename(&next, path).map_err(Error::io(format!("replace {}", path.display())))
}

/// Removes a folder with its content; a missing one is not an error.
pub(crate) fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Changes the owner of a folder and its content to `user`; does nothing if `user` owns the folder already.
pub(crate) fn give_to(path: &Path, user: Option<&User>) -> Result<(), Error> {
    let Some(user) = user else { return Ok(()) };
    let owner =
        fs::symlink_metadata(path).map_err(Error::io(format!("read the metadata of {}", path.display())))?.uid();
    if owner == user.uid { Ok(()) } else { give_all(path, user) }
}

fn give_all(path: &Path, user: &User) -> Result<(), Error> {
    let failed = || Error::io(format!("give {} to the user {}", path.display(), user.name));
    if fs::symlink_metadata(path).map_err(failed())?.is_dir() {
        for entry in fs::read_dir(path).map_err(failed())? {
            give_all(&entry.map_err(failed())?.path(), user)?;
        }
    }
    // The folder is changed last, so that an interrupted change is repeated.
    lchown(path, Some(user.uid), Some(user.gid)).map_err(failed())
}

/// The end of a log on one line, with the log's path.
pub(crate) fn tail(paths: &[&Path]) -> String {
    let mut parts = Vec::new();
    for path in paths {
        let text = read_end(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if !lines.is_empty() {
            let last = &lines[lines.len().saturating_sub(6)..];
            parts.push(format!("{} ({})", last.join(" | "), path.display()));
        }
    }
    if parts.is_empty() { "none".into() } else { parts.join("; ") }
}

fn read_end(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
