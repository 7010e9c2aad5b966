//! Certificates by which the dispatcher authenticates to a receiver (mutual TLS): what is accepted, and what a
//! connection needs. Pure.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use schemas::ids::EndpointId;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// A certificate and those of the authorities between it and a root.
const MAX_CHAIN: usize = 8;

/// Why a certificate or its key is refused. Continues a sentence that starts with the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateProblem {
    #[error("must be PEM with 1 to {MAX_CHAIN} certificates, that of the client first")]
    Pem,
    #[error("has a certificate that cannot be read as X.509 version 3")]
    Malformed,
    #[error("has expired: the first certificate is of the past")]
    Expired,
    #[error("must be PEM with a private key that is not encrypted (PKCS #8, PKCS #1 or SEC 1)")]
    KeyPem,
    #[error("must be a key for RSA of 2048 bits or more, ECDSA on P-256 or P-384, or Ed25519")]
    Key,
    #[error("does not belong to the certificate")]
    OtherKey,
}

impl CertificateProblem {
    /// The member that is to blame.
    pub(crate) const fn member(self) -> &'static str {
        match self {
            Self::Pem | Self::Malformed | Self::Expired => "certificate",
            Self::KeyPem | Self::Key | Self::OtherKey => "private_key",
        }
    }
}

/// What is public about a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Described {
    sha256: [u8; 32],
    pub expires_at: OffsetDateTime,
}

impl Described {
    /// In hexadecimal digits.
    pub(crate) fn sha256_text(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Describes the first certificate of a PEM text.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn describe(certificate: &str) -> Result<Described, CertificateProblem> {
    let chain = chain(certificate)?;
    let first = chain.first().ok_or(CertificateProblem::Pem)?;
    let (rest, parsed) = x509_parser::parse_x509_certificate(first).map_err(|_| CertificateProblem::Malformed)?;
    if !rest.is_empty() {
        return Err(CertificateProblem::Malformed);
    }
    let expires_at = parsed.validity().not_after.timestamp();
    let expires_at = OffsetDateTime::from_unix_timestamp(expires_at).map_err(|_| CertificateProblem::Malformed)?;
    Ok(Described { sha256: Sha256::digest(first).into(), expires_at })
}

/// Whether a certificate can be used now, with this key.
///
/// # Errors
/// Why not.
pub(crate) fn check(certificate: &str, private_key: &str, now: OffsetDateTime) -> Result<(), CertificateProblem> {
    if describe(certificate)?.expires_at <= now {
        return Err(CertificateProblem::Expired);
    }
    load(certificate, private_key).map(drop)
}

fn chain(certificate: &str) -> Result<Vec<CertificateDer<'static>>, CertificateProblem> {
    let read = CertificateDer::pem_slice_iter(certificate.as_bytes()).take(MAX_CHAIN + 1);
    let chain: Vec<_> = read.collect::<Result<_, _>>().map_err(|_| CertificateProblem::Pem)?;
    if (1..=MAX_CHAIN).contains(&chain.len()) { Ok(chain) } else { Err(CertificateProblem::Pem) }
}

fn load(certificate: &str, private_key: &str) -> Result<CertifiedKey, CertificateProblem> {
    let chain = chain(certificate)?;
    let key = PrivateKeyDer::from_pem_slice(private_key.as_bytes()).map_err(|_| CertificateProblem::KeyPem)?;
    let key = ring::sign::any_supported_type(&key).map_err(|_| CertificateProblem::Key)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateProblem::OtherKey),
        Err(_) => Err(CertificateProblem::Malformed),
    }
}

/// The certificate of one endpoint. Equal: of the same endpoint, and the same certificate. `Debug` hides the key.
#[derive(Clone)]
pub(crate) struct ClientCertificate {
    endpoint_id: EndpointId,
    sha256: [u8; 32],
    key: Arc<CertifiedKey>,
}

impl ClientCertificate {
    /// # Errors
    /// Why it cannot be used. An expired one can: the receiver decides.
    pub(crate) fn load(
        endpoint_id: EndpointId,
        certificate: &str,
        private_key: &str,
    ) -> Result<Self, CertificateProblem> {
        let Described { sha256, .. } = describe(certificate)?;
        Ok(Self { endpoint_id, sha256, key: Arc::new(load(certificate, private_key)?) })
    }

    pub(crate) fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        (self.endpoint_id, self.sha256) == (other.endpoint_id, other.sha256)
    }
}

impl Eq for ClientCertificate {}

impl Hash for ClientCertificate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.endpoint_id, self.sha256).hash(state);
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("endpoint_id", &self.endpoint_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use time::macros::datetime;

    use super::*;

    /// A certificate that is valid until a year, and its key, both PEM.
    pub(crate) fn self_signed(until: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_with_its_key_is_accepted_and_described() {
        let (certificate, key) = self_signed(2100);
        let now = datetime!(2026-11-29 0:00 UTC);
        check(&certificate, &key, now).unwrap();
        let described = describe(&certificate).unwrap();
        assert_eq!(described.expires_at, datetime!(2100-01-01 0:00 UTC));
        assert_eq!(described.sha256_text().len(), 64);
        let (own, other) = (EndpointId::generate(), EndpointId::generate());
        let load = |id, (certificate, key): &(String, String)| ClientCertificate::load(id, certificate, key).unwrap();
        let pem = (certificate, key);
        assert_eq!(load(own, &pem), load(own, &pem));
        assert_ne!(load(own, &pem), load(other, &pem), "of another endpoint");
        assert_ne!(load(own, &pem), load(own, &self_signed(2100)), "another certificate");
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_reason() {
        let (certificate, key) = self_signed(2100);
        let (_, other_key) = self_signed(2100);
        let now = datetime!(2026-11-29 0:00 UTC);
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let pem = |label: &str| format!("-----BEGIN {label}-----\nbm90aGluZw==\n-----END {label}-----\n");
        let (no_certificate, no_key) = (pem("CERTIFICATE"), pem("PRIVATE KEY"));
        for (certificate, key, problem) in [
            ("", key.as_str(), CertificateProblem::Pem),
            (&key, &key, CertificateProblem::Pem),
            (&certificate.repeat(9), &key, CertificateProblem::Pem),
            (&no_certificate, &key, CertificateProblem::Malformed),
            (&self_signed(2001).0, &key, CertificateProblem::Expired),
            (&certificate, "", CertificateProblem::KeyPem),
            (&certificate, &certificate, CertificateProblem::KeyPem),
            (&certificate, &encrypted, CertificateProblem::KeyPem),
            (&certificate, &no_key, CertificateProblem::Key),
            (&certificate, &other_key, CertificateProblem::OtherKey),
        ] {
            assert_eq!(check(certificate, key, now), Err(problem));
        }
    }
}
