//! Why a request has no answer, as the short sentences that a tenant reads: no addresses, URLs, names of a certificate,
//! secrets, or details of a library.

use std::error::Error;

use rustls::{AlertDescription, CertificateError};

use crate::attempt::egress::Refusal;
use crate::attempt::token_answer::TokenProblem;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// The token endpoint could not be asked.
    #[error("the token endpoint could not be used: {0}")]
    TokenEndpoint(Box<Failure>),
    #[error("the token endpoint {0}")]
    Token(#[from] TokenProblem),
    #[error("{0}")]
    NotSent(NotSent),
}

impl Failure {
    /// Of sending a request on a connection that stood. With TLS 1.3, a receiver refuses a certificate only then.
    pub(crate) fn of_sending(error: &hyper::Error) -> Self {
        match tls_error(error) {
            Some(error) if TlsFailure::is_about_ours(error) => Self::Tls(TlsFailure::ClientCertificate),
            _ => Self::Broken,
        }
    }

    /// Of fetching a token.
    pub(crate) fn of_token(self) -> Self {
        match self {
            // It is no failure of the token endpoint.
            Self::NotSent(_) | Self::Token(_) => self,
            other => Self::TokenEndpoint(Box::new(other)),
        }
    }
}

/// The error of TLS that caused this one.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref());
        if found.is_some() {
            return found;
        }
        next = error.source();
    }
    None
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
    /// Ours is not accepted, or there is none.
    #[error("the receiver does not accept the certificate of the client")]
    ClientCertificate,
    #[error("TLS handshake failed")]
    Handshake,
}

impl TlsFailure {
    /// `error` comes from a handshake.
    pub(crate) fn of(error: &std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let certificate = match inner {
            Some(rustls::Error::InvalidCertificate(certificate)) => certificate,
            Some(error) if Self::is_about_ours(error) => return Self::ClientCertificate,
            _ => return Self::Handshake,
        };
        match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotValidYet,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::Name,
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            _ => Self::Handshake,
        }
    }

    /// Whether the receiver refused the certificate of the client, or missed it.
    fn is_about_ours(error: &rustls::Error) -> bool {
        use AlertDescription::{
            BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown, UnknownCA,
            UnsupportedCertificate,
        };
        matches!(
            error,
            rustls::Error::AlertReceived(
                BadCertificate
                    | CertificateExpired
                    | CertificateRequired
                    | CertificateRevoked
                    | CertificateUnknown
                    | UnknownCA
                    | UnsupportedCertificate
            )
        )
    }
}
