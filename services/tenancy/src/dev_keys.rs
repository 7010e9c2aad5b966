//! Development keys: keys of any format from the configuration, admin and unlimited, for a system that listens on
//! loopback only.

use schemas::ids::OrgId;
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::audit::{self, Actor, Change};
use crate::grant::Grant;
use crate::key::{self, KeyHash};
use crate::keys::{self, KeyToStore, StoredKey};
use crate::organizations;
use crate::role::Role;
use crate::tier::Tier;

/// The organization of a key without an organization name.
pub(crate) const DEFAULT_ORGANIZATION: &str = "Development";
const LONGEST_KEY_BYTES: usize = 255;
const MAX_DEV_KEYS: usize = 100;
/// Only one process at a time creates missing organizations. Any number that no other code locks.
const ADVISORY_LOCK: i64 = 0x7472_6967_6465_7601;

/// One entry of the configuration.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct DevKey {
    key: String,
    organization: String,
}

impl DevKey {
    pub(crate) fn hash(&self) -> KeyHash {
        KeyHash::of(&self.key)
    }
}

impl std::fmt::Debug for DevKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevKey").field("organization", &self.organization).finish_non_exhaustive()
    }
}

/// Why development keys are refused. The process does not start.
#[derive(Debug, thiserror::Error)]
pub enum DevKeysError {
    /// Other machines could use them.
    #[error(
        "development keys are refused unless all listeners are on loopback; remove the keys or listen on 127.0.0.1"
    )]
    NotOnLoopback,
    /// An entry is malformed. The error has its number, because its text is a secret.
    #[error("entry {number} of the development keys: {reason}; the form is KEY[=ORGANIZATION NAME][,...]")]
    Malformed {
        /// Counted from 1.
        number: usize,
        reason: &'static str,
    },
    /// They could not be stored.
    #[error("the development keys could not be stored: {0}")]
    Database(#[from] sqlx::Error),
}

/// Reads `KEY[=ORGANIZATION NAME][,…]`. Blank means none.
///
/// # Errors
/// When there are keys and not all listeners are on loopback, or when an entry is malformed.
pub(crate) fn parse(text: &str, everything_on_loopback: bool) -> Result<Vec<DevKey>, DevKeysError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    if !everything_on_loopback {
        return Err(DevKeysError::NotOnLoopback);
    }
    let mut parsed: Vec<DevKey> = Vec::new();
    for (index, entry) in text.split(',').enumerate() {
        let malformed = |reason| DevKeysError::Malformed { number: index + 1, reason };
        let (key, organization) = entry.split_once('=').unwrap_or((entry, DEFAULT_ORGANIZATION));
        let (key, organization) = (key.trim(), organization.trim());
        if key.is_empty() || key.len() > LONGEST_KEY_BYTES || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(malformed("a key has 1 to 255 visible ASCII characters"));
        }
        if organization.is_empty() || organization.chars().count() > 255 || organization.chars().any(char::is_control) {
            return Err(malformed("an organization name has 1 to 255 characters"));
        }
        if parsed.iter().any(|other| other.key == key) {
            return Err(malformed("the key is listed twice"));
        }
        if parsed.len() == MAX_DEV_KEYS {
            return Err(malformed("too many keys"));
        }
        parsed.push(DevKey { key: key.to_owned(), organization: organization.to_owned() });
    }
    Ok(parsed)
}

/// Checks the development keys, before anything is started for them. Returns how many there are.
///
/// # Errors
/// When there are keys and not all listeners are on loopback, or when an entry is malformed.
pub fn check_dev_keys(text: &str, everything_on_loopback: bool) -> Result<usize, DevKeysError> {
    parse(text, everything_on_loopback).map(|keys| keys.len())
}

/// An entry of the audit log, which is appended when all changes of the transaction are made.
type Entry = (Change, Value);

/// Creates missing keys and organizations; idempotent. Returns the organization of each key.
pub(crate) async fn apply(pool: &PgPool, dev_keys: &[DevKey]) -> Result<Vec<OrgId>, sqlx::Error> {
    let mut transaction = runtime::postgres::begin(pool).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(ADVISORY_LOCK).execute(&mut *transaction).await?;
    let mut organizations = Vec::with_capacity(dev_keys.len());
    let mut entries = Vec::new();
    for dev_key in dev_keys {
        let org_id = match organizations::find_by_name(&mut transaction, &dev_key.organization).await? {
            Some(id) => id,
            None => {
                let made = organizations::insert(&mut transaction, &dev_key.organization, Tier::Free, Some(0)).await?;
                let change = Change { org_id: made.id, action: "organization.created", target: made.id.as_uuid() };
                entries.push((change, made.audit_detail()));
                made.id
            }
        };
        entries.extend(apply_one(&mut transaction, org_id, dev_key).await?);
        organizations.push(org_id);
    }
    for (change, detail) in entries {
        audit::append(&mut transaction, Actor::Configuration, None, change, &detail).await?;
    }
    transaction.commit().await?;
    Ok(organizations)
}

/// An existing development key is moved to the configured organization and made valid again.
async fn apply_one(conn: &mut PgConnection, org_id: OrgId, dev_key: &DevKey) -> Result<Vec<Entry>, sqlx::Error> {
    let hash = dev_key.hash();
    let created = |key: &StoredKey| entry(org_id, "key.created", key);
    if let Some((previous, key)) = restore(conn, org_id, &hash).await? {
        let lost = previous.filter(|previous| *previous != org_id).map(|previous| entry(previous, "key.revoked", &key));
        return Ok(lost.into_iter().chain([created(&key)]).collect());
    }
    if is_stored(conn, &hash).await? {
        return Ok(Vec::new());
    }
    let grant = Grant { role: Role::Admin, event_types: None, rate_limit_per_minute: Some(0), expires_at: None };
    let prefix = key::prefix(&dev_key.key);
    let to_store = KeyToStore {
        name: "development key",
        environment: keys::DEVELOPMENT,
        prefix: &prefix,
        hash,
        grant: &grant,
        limit_scope: None,
        content_dedup: false,
    };
    let stored = keys::insert(conn, org_id, &to_store).await?;
    Ok(stored.iter().map(created).collect())
}

fn entry(org_id: OrgId, action: &'static str, key: &StoredKey) -> Entry {
    (Change { org_id, action, target: key.id.as_uuid() }, key.audit_detail())
}

/// Makes a development key valid in its organization again, if it is not. Returns the key, and the organization that it
/// was valid in before.
async fn restore(
    conn: &mut PgConnection,
    org_id: OrgId,
    hash: &KeyHash,
) -> Result<Option<(Option<OrgId>, StoredKey)>, sqlx::Error> {
    let row = sqlx::query(
        "UPDATE api_keys k SET org_id = $2, revoked_at = NULL
         FROM (SELECT id, CASE WHEN revoked_at IS NULL THEN org_id END AS valid_in FROM api_keys
               WHERE hash = $1 AND environment = 'development' AND (org_id <> $2 OR revoked_at IS NOT NULL)
               FOR UPDATE) before
         WHERE k.id = before.id
         RETURNING k.id, name, prefix, environment, role, event_types, rate_limit_per_minute, expires_at, content_dedup,
                   limit_scope_id, created_at, revoked_at, before.valid_in",
    )
    .bind(hash.as_bytes().as_slice())
    .bind(org_id.as_uuid())
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let valid_in: Option<Uuid> = row.try_get("valid_in")?;
    Ok(Some((valid_in.map(OrgId::from_uuid), StoredKey::from_row(&row)?)))
}

async fn is_stored(conn: &mut PgConnection, hash: &KeyHash) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM api_keys WHERE hash = $1)")
        .bind(hash.as_bytes().as_slice())
        .fetch_one(conn)
        .await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text, true).unwrap().into_iter().map(|dev_key| (dev_key.key, dev_key.organization)).collect()
    }

    #[test]
    fn entries_have_a_key_and_an_optional_organization() {
        let expected = [("a", "Development"), ("b-1", "Shop & Co"), ("c", "x=y")]
            .map(|(key, name)| (key.to_owned(), name.to_owned()));
        assert_eq!(pairs("a, b-1=Shop & Co ,c=x=y"), expected);
        assert_eq!(pairs(" "), []);
    }

    #[test]
    fn they_are_refused_beyond_loopback() {
        assert!(matches!(parse("a", false), Err(DevKeysError::NotOnLoopback)));
        assert_eq!(parse("", false).unwrap(), []);
    }

    #[test]
    fn an_error_shows_the_number_of_an_entry_and_not_its_text() {
        for bad in ["a,", "a,=x", "a,s3cret=", "a,s3 cret", "a,a", "a,s3cret\u{e9}"] {
            let error = parse(bad, true).unwrap_err().to_string();
            assert!(error.contains("entry 2") && !error.contains("s3"), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn parsed_keys_can_be_sent_in_a_header_and_stored(text in ".{0,60}") {
            for dev_key in parse(&text, true).unwrap_or_default() {
                prop_assert!(http::HeaderValue::from_str(&dev_key.key).is_ok());
                prop_assert!(!dev_key.organization.is_empty() && !dev_key.organization.contains('\0'));
                let printed = format!("{dev_key:?}");
                prop_assert!(!printed.contains("key:"));
            }
        }
    }
}
