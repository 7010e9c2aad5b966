//! Why a request has no answer, as the short sentences that a tenant reads: no addresses, URLs, names of a certificate,
//! or details of a library.

use rustls::CertificateError;

use crate::attempt::egress::Refusal;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the host name could not be resolved")]
    NameUnknown,
    #[error("the name servers of the host name do not answer")]
    NameServer,
    #[error("the URL cannot be sent in a request")]
    Url,
    #[error("the connection was refused")]
    ConnectionRefused,
    #[error("the connection could not be made")]
    NoConnection,
    #[error("TLS failed: {0}")]
    Tls(TlsFailure),
    /// Seconds that the step may take.
    #[error("no response within {0} s")]
    Timeout(u64),
    #[error("the connection broke before the response")]
    Broken,
    #[error("{0}")]
    NotSent(NotSent),
}

/// Why nothing was sent through no fault of the endpoint. It is no attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSent {
    #[error("too many look-ups of host names are in flight")]
    NoLookupPlace,
}

impl NotSent {
    /// The label of the metric.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoLookupPlace => "no_lookup_place",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TlsFailure {
    #[error("certificate expired")]
    Expired,
    #[error("certificate not valid yet")]
    NotValidYet,
    #[error("certificate not valid for this name")]
    Name,
    #[error("unknown certificate authority")]
    UnknownAuthority,
    #[error("TLS handshake failed")]
    Handshake,
}

impl TlsFailure {
    /// `error` comes from a handshake.
    pub(crate) fn of(error: &std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(rustls::Error::InvalidCertificate(certificate)) = inner else { return Self::Handshake };
        match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotValidYet,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::Name,
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            _ => Self::Handshake,
        }
    }
}
