//! The organizations of a run: created once through the operator's routes, and saved in the data folder.

use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use loadkit::Failure;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::control_client::ControlClient;
use crate::target::Target;

/// Number of concurrent tasks that create organizations.
const CREATORS: usize = 8;

/// An organization with a key that may produce and consume. The key is a secret, so this has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Organization {
    pub id: Uuid,
    pub key: String,
}

/// The organizations of a run.
pub(crate) struct Organizations {
    /// Used in turns, in this order.
    pub list: Vec<Organization>,
    /// Whether nobody else sends for them: then their inboxes must contain only events of this run.
    pub exclusive: bool,
}

#[derive(Default, Serialize, Deserialize)]
struct Saved {
    base_url: String,
    organizations: Vec<Organization>,
}

/// The organization of the target's key, or `count` organizations with this limit a minute (0: none), which are created
/// if necessary.
pub(crate) async fn ensure(
    target: &Target,
    control: &ControlClient,
    count: usize,
    limit: u32,
) -> Result<Organizations, Failure> {
    if let Some(key) = &target.key {
        let Some(id) = owner(control, key).await? else {
            return Err(Failure::Usage("the system does not know the given key".to_owned()));
        };
        return Ok(Organizations { list: vec![Organization { id, key: key.clone() }], exclusive: false });
    }
    let Some(token) = &target.operator_token else {
        return Err(Failure::Usage("give --key, or --operator-token to create organizations with".to_owned()));
    };
    let path = target.data_dir.join(format!("bench-organizations-{limit}.json"));
    let mut saved = load_saved(&path, &target.address.url());
    // The first key shows whether the system still has the data that the keys belong to.
    if let Some(first) = saved.first()
        && owner(control, &first.key).await? != Some(first.id)
    {
        saved.clear();
    }
    if saved.len() < count {
        eprintln!("creating {} organizations", count - saved.len());
        saved.extend(create(control, token, limit, saved.len()..count).await?);
        save(&path, &Saved { base_url: target.address.url(), organizations: saved.clone() })?;
    }
    saved.truncate(count);
    Ok(Organizations { list: saved, exclusive: true })
}

#[derive(Deserialize)]
struct Owner {
    organization_id: Uuid,
}

/// The organization of `key`; `None` when the system does not know the key.
async fn owner(control: &ControlClient, key: &str) -> anyhow::Result<Option<Uuid>> {
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
struct Created {
    id: Uuid,
}

#[derive(Deserialize)]
struct CreatedKey {
    key: String,
}

async fn create(
    control: &ControlClient,
    token: &str,
    limit: u32,
    numbers: Range<usize>,
) -> anyhow::Result<Vec<Organization>> {
    let token: Arc<str> = token.into();
    let mut creators = JoinSet::new();
    for creator in 0..CREATORS {
        let (control, token, numbers) = (control.clone(), Arc::clone(&token), numbers.clone());
        creators.spawn(async move {
            let mut created = Vec::new();
            for number in numbers.skip(creator).step_by(CREATORS) {
                created.push(create_one(&control, &token, limit, number).await?);
            }
            anyhow::Ok(created)
        });
    }
    let mut all = Vec::new();
    while let Some(created) = creators.join_next().await {
        all.extend(created.context("a task that creates organizations failed")??);
    }
    Ok(all)
}

async fn create_one(control: &ControlClient, token: &str, limit: u32, number: usize) -> anyhow::Result<Organization> {
    let name = format!("load test {number}");
    let organization = json!({"name": name, "tier": "enterprise", "rate_limit_per_minute": limit});
    let created: Created = control.post("/v1/organizations", token, &organization).await?;
    let key = json!({"name": "load test", "role": "manage", "environment": "test"});
    let created_key: CreatedKey = control.post(&format!("/v1/organizations/{}/keys", created.id), token, &key).await?;
    Ok(Organization { id: created.id, key: created_key.key })
}

/// The organizations that an earlier run created on this system. An unreadable file is ignored.
fn load_saved(path: &Path, base_url: &str) -> Vec<Organization> {
    let saved: Saved =
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    if saved.base_url == base_url { saved.organizations } else { Vec::new() }
}

fn save(path: &PathBuf, saved: &Saved) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Readable by the owner only, from the start: the file has keys.
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&serde_json::to_vec(saved)?)?;
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn organizations_are_saved_for_one_system_and_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/organizations.json");
        let organizations = vec![Organization { id: Uuid::now_v7(), key: "secret".to_owned() }];
        save(&path, &Saved { base_url: "http://a".to_owned(), organizations }).unwrap();
        assert_eq!(load_saved(&path, "http://a").len(), 1);
        assert!(load_saved(&path, "http://b").is_empty());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "garbage").unwrap();
        assert!(load_saved(&path, "http://a").is_empty());
    }
}
