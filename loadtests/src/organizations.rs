//! The organizations a run sends for: made through the operator's routes once, and remembered in the data folder.
//!
//! What does not live here: what is sent for them (request) and what their inboxes hold (inbox).

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::control::Control;
use crate::error::Failure;
use crate::target::Target;

/// Organizations are made by this many tasks at once.
const MAKERS: usize = 8;

/// One organization and a key of it that may produce and consume. The key is a secret, so this cannot be printed.
#[derive(Clone, Serialize, Deserialize)]
pub struct Organization {
    /// Its id.
    pub id: Uuid,
    /// The key.
    pub key: String,
}

/// The organizations of a run.
pub struct Organizations {
    /// They take turns in this order.
    pub list: Vec<Organization>,
    /// Whether nobody else sends for them: then every event found in an inbox must be one of ours.
    pub exclusive: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Remembered {
    base_url: String,
    organizations: Vec<Organization>,
}

/// The organization of the target's key, or `count` unlimited ones, made when they are not there yet.
pub async fn ensure(target: &Target, control: &Control, count: usize) -> Result<Organizations, Failure> {
    if let Some(key) = &target.key {
        let Some(id) = owner(control, key).await? else {
            return Err(Failure::Usage("the system does not know the given key".to_owned()));
        };
        return Ok(Organizations { list: vec![Organization { id, key: key.clone() }], exclusive: false });
    }
    let Some(token) = &target.operator_token else {
        return Err(Failure::Usage("give --key, or --operator-token to make organizations with".to_owned()));
    };
    let path = target.data_dir.join("loadtests-organizations.json");
    let mut known = recall(&path, &target.address.url());
    // One look tells a system with new data from the one the keys were made on.
    if let Some(first) = known.first()
        && owner(control, &first.key).await? != Some(first.id)
    {
        known.clear();
    }
    if known.len() < count {
        eprintln!("making {} organizations", count - known.len());
        known.extend(make(control, token, known.len(), count).await?);
        remember(&path, &Remembered { base_url: target.address.url(), organizations: known.clone() })?;
    }
    known.truncate(count);
    Ok(Organizations { list: known, exclusive: true })
}

#[derive(Deserialize)]
struct Owner {
    organization_id: Uuid,
}

/// The organization of `key`; `None` when the system does not know the key.
async fn owner(control: &Control, key: &str) -> anyhow::Result<Option<Uuid>> {
    let (status, body) = control.get("/v1/keys", key).await?;
    match status {
        200 => {
            Ok(Some(serde_json::from_slice::<Owner>(&body).context("GET /v1/keys: unexpected reply")?.organization_id))
        }
        401 | 429 => Ok(None),
        _ => bail!("GET /v1/keys answered {status}: {}", String::from_utf8_lossy(&body)),
    }
}

#[derive(Deserialize)]
struct Made {
    id: Uuid,
}

#[derive(Deserialize)]
struct MadeKey {
    key: String,
}

async fn make(control: &Control, token: &str, from: usize, to: usize) -> anyhow::Result<Vec<Organization>> {
    let token: Arc<str> = token.into();
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        let (control, token) = (control.clone(), Arc::clone(&token));
        makers.spawn(async move {
            let mut made = Vec::new();
            for number in (from + maker..to).step_by(MAKERS) {
                made.push(make_one(&control, &token, number).await?);
            }
            anyhow::Ok(made)
        });
    }
    let mut all = Vec::with_capacity(to - from);
    while let Some(made) = makers.join_next().await {
        all.extend(made.context("a maker of organizations failed")??);
    }
    Ok(all)
}

async fn make_one(control: &Control, token: &str, number: usize) -> anyhow::Result<Organization> {
    let organization = json!({"name": format!("load test {number}"), "tier": "enterprise", "rate_limit_per_minute": 0});
    let made: Made = control.post("/v1/organizations", token, &organization).await?;
    let key = json!({"name": "load test", "role": "manage", "environment": "test"});
    let made_key: MadeKey = control.post(&format!("/v1/organizations/{}/keys", made.id), token, &key).await?;
    Ok(Organization { id: made.id, key: made_key.key })
}

/// What an earlier run made on this system. A file that cannot be read is as good as none.
fn recall(path: &Path, base_url: &str) -> Vec<Organization> {
    let remembered: Remembered =
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    if remembered.base_url == base_url { remembered.organizations } else { Vec::new() }
}

fn remember(path: &PathBuf, remembered: &Remembered) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Keys: for the owner's eyes only, from the first byte on.
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&serde_json::to_vec(remembered)?)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn organizations_are_remembered_for_their_system_alone_and_only_for_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/organizations.json");
        let organizations = vec![Organization { id: Uuid::now_v7(), key: "secret".to_owned() }];
        remember(&path, &Remembered { base_url: "http://a".to_owned(), organizations }).unwrap();
        assert_eq!(recall(&path, "http://a").len(), 1);
        assert!(recall(&path, "http://b").is_empty());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "garbage").unwrap();
        assert!(recall(&path, "http://a").is_empty());
    }
}
