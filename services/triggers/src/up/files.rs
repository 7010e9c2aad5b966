//! The small files that `up` keeps in its data folder: secrets that must be the same at the next start, and `dev.json`,
//! by which scripts and the command line find the running system.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Name of the file that tells how to reach what runs here.
pub(crate) const DEV_JSON: &str = "dev.json";

/// How to reach a running system.
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
    /// With its password: the file is readable by its owner alone.
    pub database_url: String,
    /// Where each role's metrics are.
    pub metrics_urls: Vec<String>,
}

impl DevJson {
    /// Writes it into `folder`, readable by its owner alone, at once or not at all.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(DEV_JSON);
        let draft = folder.join(".dev.json.new");
        // A draft of an earlier start may have other permissions.
        drop(fs::remove_file(&draft));
        let text = serde_json::to_string_pretty(self)?;
        write_private(&draft, text.as_bytes())
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads it from `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(DEV_JSON);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} does not hold what `triggers up` writes", path.display()))
    }

    /// Takes it away at the end, so that nothing points at a system that is gone.
    pub(crate) fn remove(folder: &Path) {
        drop(fs::remove_file(folder.join(DEV_JSON)));
    }
}

/// The secret in `name` of `folder`; made by `make` when there is none yet.
pub(crate) fn secret(folder: &Path, name: &str, make: impl FnOnce() -> String) -> Result<String> {
    let path = folder.join(name);
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot read {}", path.display()))
        }
        _ => {
            let secret = make();
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
