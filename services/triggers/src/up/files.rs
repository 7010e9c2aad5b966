//! Files in the data folder of `triggers up`: secrets that are kept for the next start, and `dev.json`, by which
//! scripts and commands find the running system.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// File with URL and credentials of the running system.
pub(crate) const DEV_JSON: &str = "dev.json";

/// URL and credentials of a running system.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DevJson {
    /// `http://127.0.0.1:PORT`.
    pub base_url: String,
    /// Key of the development organization.
    pub api_key: String,
    pub organization_id: String,
    /// Bearer token of the operator's routes.
    pub operator_token: String,
    /// `host:port`.
    pub kafka_brokers: String,
    /// Contains the password, so only the owner can read the file.
    pub database_url: String,
    /// `/metrics` of each process.
    pub metrics_urls: Vec<String>,
}

impl DevJson {
    /// Writes the file into `folder`, atomically. Only its owner can read it.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(DEV_JSON);
        let draft = folder.join(".dev.json.new");
        // A draft that an earlier start left may have other permissions.
        drop(fs::remove_file(&draft));
        let text = serde_json::to_string_pretty(self)?;
        write_private(&draft, text.as_bytes())
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads the file in `folder`.
    ///
    /// # Errors
    /// The cause is an [`io::Error`] of kind `NotFound` if there is no such file.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(DEV_JSON);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!("{} is not a file that `triggers up` wrote; delete it, or name another --data-dir", path.display())
        })
    }

    /// Deletes the file at the end, so that no command finds a system that has stopped.
    pub(crate) fn remove(folder: &Path) {
        drop(fs::remove_file(folder.join(DEV_JSON)));
    }
}

/// Reads the secret in file `name` of `folder`; writes the result of `generate` there if it has none.
pub(crate) fn load_or_create_secret(folder: &Path, name: &str, generate: impl FnOnce() -> String) -> Result<String> {
    let path = folder.join(name);
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot read {}", path.display()))
        }
        _ => {
            let secret = generate();
            drop(fs::remove_file(&path));
            write_private(&path, secret.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(secret)
        }
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
