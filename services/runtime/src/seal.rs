//! Sealing: authenticated encryption of small values with one key of the deployment.
//!
//! Two uses: secrets at rest (endpoint secrets), and tokens that a client carries but must not read or forge (cursors,
//! positions). What is inside a token, and how long it means something, is its owner's business. A lost sealing key
//! makes sealed secrets unreadable for ever.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

/// Bytes of the key.
pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// The deployment's sealing key. Cloning shares it; `Debug` hides it.
#[derive(Clone)]
pub struct SealingKey(Arc<XChaCha20Poly1305>);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

/// Why there is no sealing key. Fatal at start: without it no secret could be read.
#[derive(Debug, thiserror::Error)]
pub enum SealingKeyError {
    /// The file cannot be read or made.
    #[error("the sealing key {path} cannot be read or made: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Others may read the file.
    #[error("the sealing key {path} is readable by others (mode {mode:o}); run: chmod 600 {path}")]
    Exposed {
        /// Which file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key.
    #[error("a sealing key is base64 of {KEY_BYTES} bytes; {0} holds something else")]
    Malformed(String),
}

impl SealingKey {
    /// Takes the key's bytes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Arc::new(XChaCha20Poly1305::new(&bytes.into())))
    }

    /// Reads a key from its base64 text, as configuration carries it.
    ///
    /// # Errors
    /// When the text is not base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, SealingKeyError> {
        Self::parse(text, "the configured value")
    }

    fn parse(text: &str, origin: &str) -> Result<Self, SealingKeyError> {
        let malformed = || SealingKeyError::Malformed(origin.to_owned());
        let bytes = STANDARD.decode(text.trim()).map_err(|_| malformed())?;
        Ok(Self::from_bytes(bytes.try_into().map_err(|_| malformed())?))
    }

    /// Reads the key file. A role that only opens what others sealed must never make a key: with one of its own it
    /// would open nothing.
    ///
    /// # Errors
    /// When it is not there or cannot be read, when others may read it, or when it holds no key.
    pub fn load(path: &Path) -> Result<Self, SealingKeyError> {
        let shown = path.display().to_string();
        let failed = |source| SealingKeyError::Io { path: shown.clone(), source };
        let text = fs::read_to_string(path).map_err(failed)?;
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealingKeyError::Exposed { path: shown, mode });
        }
        Self::parse(&text, &shown)
    }

    /// Reads the key file, or makes it (mode 0600) when there is none.
    ///
    /// # Errors
    /// When it can neither be read nor made, when others may read it, or when it holds no key.
    pub fn load_or_create(path: &Path) -> Result<Self, SealingKeyError> {
        match Self::load(path) {
            Err(SealingKeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        let failed = |source| SealingKeyError::Io { path: path.display().to_string(), source };
        let bytes: [u8; KEY_BYTES] = rand::random();
        // `create_new`: two starts at once must not each believe in a key of its own.
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(STANDARD.encode(bytes).as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(Self::from_bytes(bytes))
    }

    /// Seals `plain`. It opens only with the same `purpose` (what kind of value) and `context` (whose it is).
    pub fn seal(&self, purpose: &str, context: &[u8], plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let aad = associated_data(purpose, context);
        // The cipher refuses only plaintexts of 256 GiB; an empty answer would then open to nothing.
        let sealed = self.0.encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: &aad }).unwrap_or_default();
        let mut bytes = Vec::with_capacity(NONCE_BYTES + sealed.len());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        bytes
    }

    /// Opens what [`Self::seal`] made; `None` when it was made by another key, for another purpose or context, or was
    /// altered.
    pub fn open(&self, purpose: &str, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_BYTES)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
        let aad = associated_data(purpose, context);
        self.0.decrypt(&XNonce::from(nonce), Payload { msg: body, aad: &aad }).ok()
    }

    /// [`Self::seal`] as text for URLs and JSON (base64url without padding).
    pub fn seal_token(&self, purpose: &str, context: &[u8], plain: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.seal(purpose, context, plain))
    }

    /// Opens the text of [`Self::seal_token`]; `None` for anything else.
    pub fn open_token(&self, purpose: &str, context: &[u8], token: &str) -> Option<Vec<u8>> {
        self.open(purpose, context, &URL_SAFE_NO_PAD.decode(token).ok()?)
    }
}

/// Length-prefixed, so that no purpose and context can be shifted into another pair.
fn associated_data(purpose: &str, context: &[u8]) -> Vec<u8> {
    let mut aad = Vec::with_capacity(8 + purpose.len() + context.len());
    aad.extend_from_slice(&(purpose.len() as u64).to_be_bytes());
    aad.extend_from_slice(purpose.as_bytes());
    aad.extend_from_slice(context);
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_for_its_purpose_and_context() {
        let key = SealingKey::from_bytes([7; KEY_BYTES]);
        let token = key.seal_token("cursor", b"org-a", b"place");
        assert_eq!(key.open_token("cursor", b"org-a", &token).as_deref(), Some(&b"place"[..]));
        assert_eq!(key.open_token("cursor", b"org-b", &token), None);
        assert_eq!(key.open_token("position", b"org-a", &token), None);
        assert_eq!(SealingKey::from_bytes([8; KEY_BYTES]).open_token("cursor", b"org-a", &token), None);
        assert_eq!(key.open_token("cursor", b"org-a", "short"), None);
        assert_eq!(key.open_token("cursor", b"org-a", &format!("{token}A")), None);
    }

    #[test]
    fn a_key_file_is_made_once_and_only_when_asked_and_refused_when_others_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.key");
        let absent = SealingKey::load(&path);
        assert!(
            matches!(&absent, Err(SealingKeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound),
            "{absent:?}"
        );
        assert!(!path.exists());
        let first = SealingKey::load_or_create(&path).unwrap();
        let again = SealingKey::load_or_create(&path).unwrap();
        let sealed = first.seal("secret", b"", b"x");
        assert_eq!(again.open("secret", b"", &sealed).as_deref(), Some(&b"x"[..]));
        assert_eq!(SealingKey::load(&path).unwrap().open("secret", b"", &sealed).as_deref(), Some(&b"x"[..]));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(SealingKey::load_or_create(&path), Err(SealingKeyError::Exposed { mode: 0o644, .. })));
    }
}
