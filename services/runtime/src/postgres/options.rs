//! From `DATABASE_URL` to connection options, TLS above all. Every connection to PostgreSQL is made from these options.
//!
//! Without `sslmode` in the URL, a server on another host must prove its name by a certificate (`verify-full`). On this
//! host, and through a socket, TLS is used if the server has it. sqlx alone would fall back to plain text everywhere.

use std::fs::File;
use std::str::FromStr as _;

use rustls::CertificateError;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::loopback;

/// What a server without TLS, or with another certificate, needs.
const ADVICE_NO_TLS: &str = "the server does not support TLS; enable it there (ssl = on), or set sslmode=disable in \
                             DATABASE_URL if nobody else can reach the network between";
const ADVICE_UNKNOWN_CA: &str = "the server's certificate is of a CA that is unknown here; name the file of that CA \
                                 in DATABASE_URL: sslrootcert=FILE";
const ADVICE_WRONG_NAME: &str = "the server's certificate is not for the host of DATABASE_URL; use a name that the \
                                 certificate has";

/// The options of a URL, with TLS as described above.
///
/// # Errors
/// When the URL cannot be parsed.
pub fn connect_options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    let mut options = PgConnectOptions::from_str(url)?;
    // A URL has brackets around an IPv6 address, a certificate has none.
    if let Some(address) = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let address = address.to_owned();
        options = options.host(&address);
    }
    let has_mode = parameters(url).any(|(name, _)| matches!(name, "sslmode" | "ssl-mode"));
    if has_mode || is_local(&options) { Ok(options) } else { Ok(options.ssl_mode(PgSslMode::VerifyFull)) }
}

/// What an attacker on the network could do to a connection with these options; `None` if nothing.
pub(super) fn weakness(options: &PgConnectOptions) -> Option<&'static str> {
    if is_local(options) {
        return None;
    }
    match options.get_ssl_mode() {
        PgSslMode::VerifyFull | PgSslMode::VerifyCa => None,
        PgSslMode::Require => Some("encrypted, but the server's certificate is not verified"),
        PgSslMode::Prefer => Some("plain text if the server has no TLS; its certificate is not verified"),
        PgSslMode::Allow | PgSslMode::Disable => Some("plain text"),
    }
}

/// Checks that the certificates and keys that the URL names can be read: sqlx would only say that some file is missing.
pub(crate) fn check_files(url: &str) -> Result<(), String> {
    for (name, path) in parameters(url) {
        let is_file = matches!(name, "sslrootcert" | "ssl-root-cert" | "ssl-ca" | "sslcert" | "ssl-cert" | "sslkey")
            || name == "ssl-key";
        if is_file && !path.contains('%') && !path.contains("-----BEGIN") {
            File::open(path).map_err(|error| format!("{name}={path} cannot be read: {error}"))?;
        }
    }
    Ok(())
}

/// The error of a connection or statement as a sentence. Where TLS failed, it says what to do.
pub fn explain(error: &sqlx::Error) -> String {
    let advice = match error {
        sqlx::Error::Database(database) => return database.message().to_owned(),
        sqlx::Error::Tls(reason) if reason.to_string().contains("does not support TLS") => ADVICE_NO_TLS,
        sqlx::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            // `BadSignature`: another CA of the same name.
            Some(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => ADVICE_UNKNOWN_CA,
            Some(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => ADVICE_WRONG_NAME,
            Some(reason) => return format!("TLS with the server failed: {reason}"),
            None => return error.to_string(),
        },
        _ => return error.to_string(),
    };
    advice.to_owned()
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some() || host.starts_with('/') || loopback::is_loopback(host)
}

/// The query parameters, as they are written. One with an escape in its name is not recognized, which is the safe side.
fn parameters(url: &str) -> impl Iterator<Item = (&str, &str)> {
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter_map(|pair| pair.split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> String {
        format!("{:?}", connect_options(url).unwrap().get_ssl_mode())
    }

    #[test]
    fn another_host_must_prove_its_name_unless_the_url_says_no() {
        for url in [
            "postgres://u:p@db.example.com/d",
            "postgres://u@10.0.0.5:5432/d?application_name=sslmode",
            "postgres://u@127.0.0.1.example.com/d",
            "postgres://u@localhost.example.com/d",
            "postgres://u@127.0.0.1/d?host=db.example.com",
            "postgres://u@127.0.0.1/d?hostaddr=10.0.0.5",
            "postgres://u@[fd00::1]/d",
            "postgres://u@db.example.com/d?ssl%6Dode=disable",
            "postgres://u@db.example.com/d#?sslmode=disable",
        ] {
            assert_eq!(mode(url), "VerifyFull", "{url}");
            assert_eq!(weakness(&connect_options(url).unwrap()), None, "{url}");
        }
        for (given, expected) in [("disable", "Disable"), ("require", "Require"), ("verify-ca", "VerifyCa")] {
            assert_eq!(mode(&format!("postgres://u@db.example.com/d?sslmode={given}")), expected);
        }
    }

    #[test]
    fn this_host_and_a_socket_need_no_certificate() {
        for url in [
            "postgres://u@127.0.0.1:5432/d",
            "postgres://u@localhost/d",
            "postgres://u@[::1]/d",
            "postgres:///d?host=/run/postgresql",
            "postgres://%2Frun%2Fpostgresql/d",
        ] {
            assert_eq!(mode(url), "Prefer", "{url}");
            assert_eq!(weakness(&connect_options(&format!("{url}#")).unwrap()), None, "{url}");
        }
        assert_eq!(connect_options("postgres://u@[::1]/d").unwrap().get_host(), "::1");
        let local = connect_options("postgres://u@127.0.0.1/d?sslmode=disable").unwrap();
        assert_eq!(weakness(&local), None);
    }

    #[test]
    fn an_unprotected_connection_to_another_host_is_a_weakness() {
        for weak in ["disable", "allow", "prefer", "require"] {
            let options = connect_options(&format!("postgres://u@db.example.com/d?sslmode={weak}")).unwrap();
            assert!(weakness(&options).is_some(), "{weak}");
        }
    }

    #[test]
    fn a_certificate_file_that_is_missing_is_named() {
        let error = check_files("postgres://u@h/d?sslrootcert=/nowhere/ca.pem").unwrap_err();
        assert!(error.contains("sslrootcert=/nowhere/ca.pem"), "{error}");
        check_files("postgres://u@h/d?sslmode=verify-full").unwrap();
    }
}
