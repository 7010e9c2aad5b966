//! Sealing: authenticated encryption of small values with one key per deployment.
//!
//! It has two uses: secrets at rest (endpoint secrets), and tokens that a client stores but must not read or forge
//! (cursors, positions). Both use XChaCha20-Poly1305 with random nonces, but for tokens that a client may compare
//! (positions): these use AES-SIV, which gives the same text for the same value. A token does not expire here; its
//! owner checks that. If the sealing key is lost, sealed secrets can never be read again.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use aes_siv::siv::Aes128Siv;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::private_file;

/// Length of the key, bytes.
pub const KEY_BYTES: usize = 32;
/// Length of its base64 text.
const ENCODED_BYTES: usize = 44;
const NONCE_BYTES: usize = 24;
/// Of a stable token: purpose and owner are in its key.
const NO_PARTS: [&[u8]; 0] = [];

/// The deployment's sealing key. Cloning shares it; `Debug` hides it.
#[derive(Clone)]
pub struct SealingKey(Arc<Keys>);

struct Keys {
    cipher: XChaCha20Poly1305,
    /// Derives the keys of stable tokens from the sealing key.
    stable: Hmac<Sha256>,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

/// Why the sealing key could not be loaded. The process cannot start without it.
#[derive(Debug, thiserror::Error)]
pub enum SealingKeyError {
    /// The file cannot be read or created.
    #[error("the sealing key {path} cannot be read or created: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file's mode lets other users read it.
    #[error("the sealing key {path} is readable by other users (mode {mode:o}); run: chmod 600 {path}")]
    Exposed {
        /// Which file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The file ends before the key does.
    #[error(
        "the sealing key {path} is incomplete ({bytes} bytes): a start was interrupted, or the disk was full; restore \
         the file from a copy, or delete it if no endpoint exists yet"
    )]
    Incomplete {
        /// Which file.
        path: String,
        /// Its length.
        bytes: usize,
    },
    /// The content is not a key.
    #[error("{0} is not a sealing key, which is the base64 text of {KEY_BYTES} bytes")]
    Malformed(String),
}

impl SealingKey {
    /// Makes the key from its bytes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        let stable: [u8; KEY_BYTES] =
            keyed(&bytes).chain_update(b"triggers stable tokens").finalize().into_bytes().into();
        Self(Arc::new(Keys { cipher: XChaCha20Poly1305::new(&bytes.into()), stable: keyed(&stable) }))
    }

    /// Parses a key from base64 text in the configuration.
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

    /// Reads the key file. For roles that only open values of other processes: with a new key they could open none.
    ///
    /// # Errors
    /// When the file is absent or cannot be read, when other users may read it, or when it contains no key.
    pub fn load(path: &Path) -> Result<Self, SealingKeyError> {
        let shown = path.display().to_string();
        let failed = |source| SealingKeyError::Io { path: shown.clone(), source };
        let text = fs::read_to_string(path).map_err(failed)?;
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealingKeyError::Exposed { path: shown, mode });
        }
        Self::parse_file(&text, &shown)
    }

    fn parse_file(text: &str, shown: &str) -> Result<Self, SealingKeyError> {
        let is_base64 = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
        if text.trim().is_empty() || (is_base64 && text.len() < ENCODED_BYTES) {
            return Err(SealingKeyError::Incomplete { path: shown.to_owned(), bytes: text.len() });
        }
        Self::parse(text, shown)
    }

    /// Reads the key file, or creates it (mode 0600) when it is absent. Processes that start at once get the same key.
    ///
    /// # Errors
    /// When it can be neither read nor created, when other users may read it, or when it contains no key.
    pub fn load_or_create(path: &Path) -> Result<Self, SealingKeyError> {
        match Self::load(path) {
            Err(SealingKeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        let failed = |source| SealingKeyError::Io { path: path.display().to_string(), source };
        let bytes: [u8; KEY_BYTES] = rand::random();
        private_file::create_or_read(path, STANDARD.encode(bytes).as_bytes()).map_err(failed)?;
        // Read back: another process may have created it.
        Self::load(path)
    }

    /// Seals `plain`. Opening needs the same `purpose` (the kind of value) and `context` (its owner).
    pub fn seal(&self, purpose: &str, context: &[u8], plain: &[u8]) -> Vec<u8> {
        self.seal_with(rand::random(), &associated_data(purpose, context), plain)
    }

    /// Like [`Self::seal_token`], but the same value always gives the same token, so that clients can compare tokens.
    /// It shows that two values are equal, and nothing else of them.
    pub fn seal_stable_token(&self, purpose: &str, context: &[u8], plain: &[u8]) -> String {
        self.stable_tokens(purpose, context).seal(plain)
    }

    /// Seals many tokens of one purpose and owner as [`Self::seal_stable_token`] does: what they share is done once.
    pub fn stable_tokens(&self, purpose: &str, context: &[u8]) -> StableTokens {
        // A key of their own, because the cipher authenticates each further part as slowly as the value.
        let key: [u8; KEY_BYTES] =
            self.0.stable.clone().chain_update(associated_data(purpose, context)).finalize().into_bytes().into();
        StableTokens(Aes128Siv::new(&key.into()))
    }

    /// Opens a token of [`Self::seal_stable_token`]; `None` for any other text.
    pub fn open_stable_token(&self, purpose: &str, context: &[u8], token: &str) -> Option<Vec<u8>> {
        let sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
        self.stable_tokens(purpose, context).0.decrypt(NO_PARTS, &sealed).ok()
    }

    fn seal_with(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], plain: &[u8]) -> Vec<u8> {
        // The cipher fails only for plaintexts of 256 GiB. The empty result of that case cannot be opened.
        let sealed = self.0.cipher.encrypt(&XNonce::from(nonce), Payload { msg: plain, aad }).unwrap_or_default();
        let mut bytes = Vec::with_capacity(NONCE_BYTES + sealed.len());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        bytes
    }

    /// Opens a value of [`Self::seal`]. `None` if it was sealed with another key, purpose or context, or was altered.
    pub fn open(&self, purpose: &str, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_BYTES)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
        let aad = associated_data(purpose, context);
        self.0.cipher.decrypt(&XNonce::from(nonce), Payload { msg: body, aad: &aad }).ok()
    }

    /// Like [`Self::seal`], as text for URLs and JSON (base64url without padding).
    pub fn seal_token(&self, purpose: &str, context: &[u8], plain: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.seal(purpose, context, plain))
    }

    /// Opens a token of [`Self::seal_token`]; `None` for any other text.
    pub fn open_token(&self, purpose: &str, context: &[u8], token: &str) -> Option<Vec<u8>> {
        self.open(purpose, context, &URL_SAFE_NO_PAD.decode(token).ok()?)
    }
}

/// Seals stable tokens of one purpose and owner, one after the other. Not shared: it holds the state of a token.
#[derive(Debug)]
pub struct StableTokens(Aes128Siv);

impl StableTokens {
    /// As [`SealingKey::seal_stable_token`].
    pub fn seal(&mut self, plain: &[u8]) -> String {
        // It fails only for more than 126 parts. The empty result of that case cannot be opened.
        URL_SAFE_NO_PAD.encode(self.0.encrypt(NO_PARTS, plain).unwrap_or_default())
    }
}

fn keyed(key: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    // HMAC pads a short key with zeros to the block of its hash.
    let mut block = [0; 64];
    block[..KEY_BYTES].copy_from_slice(key);
    Hmac::new(&block.into())
}

/// The purpose has a length prefix, so that two different pairs of purpose and context never give the same bytes.
fn associated_data(purpose: &str, context: &[u8]) -> Vec<u8> {
    let mut aad = Vec::with_capacity(8 + purpose.len() + context.len());
    aad.extend_from_slice(&(purpose.len() as u64).to_be_bytes());
    aad.extend_from_slice(purpose.as_bytes());
    aad.extend_from_slice(context);
    aad
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_value_opens_only_with_its_purpose_and_context() {
        let key = SealingKey::from_bytes([7; KEY_BYTES]);
        let token = key.seal_token("cursor", b"org-a", b"value");
        assert_eq!(key.open_token("cursor", b"org-a", &token).as_deref(), Some(&b"value"[..]));
        assert_eq!(key.open_token("cursor", b"org-b", &token), None);
        assert_eq!(key.open_token("position", b"org-a", &token), None);
        assert_eq!(SealingKey::from_bytes([8; KEY_BYTES]).open_token("cursor", b"org-a", &token), None);
        assert_eq!(key.open_token("cursor", b"org-a", "short"), None);
        assert_eq!(key.open_token("cursor", b"org-a", &format!("{token}A")), None);
    }

    #[test]
    fn a_stable_token_is_the_same_text_for_the_same_value() {
        let (key, other) = (SealingKey::from_bytes([7; KEY_BYTES]), SealingKey::from_bytes([8; KEY_BYTES]));
        let seal = |key: &SealingKey, purpose, context, plain| key.seal_stable_token(purpose, context, plain);
        let token = seal(&key, "position", b"org-a", b"value");
        assert_eq!(seal(&SealingKey::from_bytes([7; KEY_BYTES]), "position", b"org-a", b"value"), token);
        assert_eq!(key.open_stable_token("position", b"org-a", &token).as_deref(), Some(&b"value"[..]));
        for (key, purpose, context) in
            [(&key, "position", &b"org-b"[..]), (&key, "positio", b"norg-a"), (&other, "position", b"org-a")]
        {
            assert_eq!(key.open_stable_token(purpose, context, &token), None);
        }
        assert_eq!(key.open_token("position", b"org-a", &token), None);
        for text in ["", "short", &format!("{token}A"), &token[..token.len() - 2]] {
            assert_eq!(key.open_stable_token("position", b"org-a", text), None);
        }
        let mut tokens = key.stable_tokens("position", b"org-a");
        for _ in 0..3 {
            assert_eq!(tokens.seal(b"value"), token, "one after the other");
        }
        let start = |token: &str| URL_SAFE_NO_PAD.decode(token).unwrap()[..16].to_vec();
        for different in [
            seal(&other, "position", b"org-a", b"value"),
            seal(&key, "cursor", b"org-a", b"value"),
            seal(&key, "position", b"org-b", b"value"),
            seal(&key, "position", b"org-a", b"valuf"),
            seal(&key, "position", b"org-", b"avalue"),
            seal(&key, "positio", b"norg-a", b"value"),
        ] {
            assert_ne!(start(&different), start(&token), "two values never share their synthetic vector");
        }
    }

    #[test]
    fn a_key_file_is_created_once_and_must_be_private() {
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

    #[test]
    fn starts_at_once_get_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.key");
        let keys: Vec<SealingKey> = thread::scope(|scope| {
            let start = || scope.spawn(|| SealingKey::load_or_create(&path).unwrap());
            let starts: Vec<_> = (0..8).map(|_| start()).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let sealed = keys[0].seal("secret", b"", b"x");
        for key in &keys {
            assert_eq!(key.open("secret", b"", &sealed).as_deref(), Some(&b"x"[..]), "no start has another key");
        }
    }

    #[test]
    fn an_incomplete_key_file_is_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.key");
        SealingKey::load_or_create(&path).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        for part in ["", "\n", &whole[..20], &whole[..43]] {
            fs::write(&path, part).unwrap();
            let error = SealingKey::load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("sealing.key is incomplete") && error.contains("delete it if"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), part, "it may be all that is left of a key");
        }
        fs::write(&path, "no key at all, but long enough to be one of them").unwrap();
        assert!(matches!(SealingKey::load(&path), Err(SealingKeyError::Malformed(_))));
    }
}
