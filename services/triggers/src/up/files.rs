//! Files in the data folder of `triggers up`: secrets that are kept for the next start, and `dev.json`, by which
//! scripts and commands find the running system.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use runtime::private_file;
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
        let text = serde_json::to_string_pretty(self)?;
        private_file::replace(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
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

/// Reads the secret in file `name` of `folder`; writes the result of `generate` there if there is no such file.
pub(crate) fn load_or_create_secret(folder: &Path, name: &str, generate: impl FnOnce() -> String) -> Result<String> {
    let path = folder.join(name);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let created = private_file::create_or_read(&path, generate().as_bytes());
            created.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other))
        }
        read => read,
    };
    let text = text.with_context(|| format!("cannot read or create {}", path.display()))?;
    let secret = text.trim().to_owned();
    anyhow::ensure!(!secret.is_empty(), "{} is empty; delete it, and a new secret is generated", path.display());
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_kept_and_an_empty_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let load = || load_or_create_secret(folder.path(), "dev.key", || uuid::Uuid::new_v4().to_string());
        assert_eq!(load().unwrap(), load().unwrap());
        fs::write(folder.path().join("dev.key"), "\n").unwrap();
        let error = load().unwrap_err().to_string();
        assert!(error.contains("dev.key is empty") && error.contains("delete it"), "{error}");
    }
}
