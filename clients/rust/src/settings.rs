//! Where a client finds its system: settings, environment, and the `dev.json` of `triggers up`. Pure, but for
//! [`Environment::read`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use http::HeaderValue;
use reqwest::Url;
use serde::Deserialize;

use crate::error::Error;

/// The environment of the process, as far as the client looks at it.
#[derive(Default)]
pub(crate) struct Environment {
    pub url: Option<String>,
    pub key: Option<String>,
    pub local: Option<LocalSystem>,
}

/// The members of `dev.json` that the client needs.
#[derive(Deserialize)]
pub(crate) struct LocalSystem {
    pub base_url: String,
    pub api_key: String,
}

impl Environment {
    /// Reads `TRIGGERS_URL`, `TRIGGERS_API_KEY` and `dev.json` in `TRIGGERS_DATA_DIR`, by default `.triggers`.
    pub(crate) fn read() -> Result<Self, Error> {
        let (url, key) = (variable("TRIGGERS_URL")?, variable("TRIGGERS_API_KEY")?);
        let folder = std::env::var_os("TRIGGERS_DATA_DIR").filter(|folder| !folder.is_empty());
        // A file that is not needed must not be in the way.
        let local = match (&url, &key) {
            (Some(_), Some(_)) => None,
            _ => read_dev_json(&folder.map_or_else(|| PathBuf::from(".triggers"), PathBuf::from))?,
        };
        Ok(Self { url, key, local })
    }

    /// The URL and the key. The key of the local system is not sent to another one.
    pub(crate) fn target(self) -> Result<(String, String), Error> {
        let url = self.url.or_else(|| self.local.as_ref().map(|local| local.base_url.clone())).ok_or_else(|| {
            Error::Invalid(
                "no system: TRIGGERS_URL is not set, and no local system runs here; start one with: triggers up".into(),
            )
        })?;
        let is_local = |local: &LocalSystem| local.base_url == url.trim_end_matches('/');
        let key = self.key.or_else(|| self.local.filter(is_local).map(|local| local.api_key));
        let key = key.ok_or_else(|| Error::Invalid("no API key: set TRIGGERS_API_KEY".to_owned()))?;
        Ok((url, key))
    }
}

/// An empty variable counts as absent.
fn variable(name: &str) -> Result<Option<String>, Error> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::Invalid(format!("{name} is not UTF-8"))),
    }
}

/// `None`: there is no such file.
fn read_dev_json(folder: &Path) -> Result<Option<LocalSystem>, Error> {
    let path = folder.join("dev.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::Invalid(format!("cannot read {}: {error}", path.display()))),
    };
    // The error of the parser could quote a secret.
    let read = serde_json::from_str(&text);
    read.map(Some).map_err(|_| Error::Invalid(format!("{} is not a file of `triggers up`", path.display())))
}

/// The base URL without a slash at its end.
pub(crate) fn base_url(text: &str) -> Result<Url, Error> {
    let url = Url::parse(text.trim_end_matches('/')).map_err(|error| Error::Invalid(format!("the URL: {error}")))?;
    let refused = if !matches!(url.scheme(), "http" | "https") {
        "must begin with http:// or https://"
    } else if !url.username().is_empty() || url.password().is_some() {
        "must have no user and no password; the API key is a setting of its own"
    } else if url.query().is_some() || url.fragment().is_some() {
        "must have no query and no fragment"
    } else {
        return Ok(url);
    };
    Err(Error::Invalid(format!("the URL {refused}")))
}

/// The value of the `Authorization` header. It is not shown in debug output.
pub(crate) fn authorization(key: &str) -> Result<HeaderValue, Error> {
    let is_sane = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    let value = HeaderValue::try_from(format!("Bearer {key}")).ok().filter(|_| is_sane);
    let mut value = value.ok_or_else(|| {
        Error::Invalid("the API key must be visible ASCII characters, without a blank or a line break".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether the host is this machine. No name is looked up.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(url: Option<&str>, key: Option<&str>, local: bool) -> Environment {
        let system = || LocalSystem { base_url: "http://127.0.0.1:8080".to_owned(), api_key: "local".to_owned() };
        Environment { url: url.map(str::to_owned), key: key.map(str::to_owned), local: local.then(system) }
    }

    #[test]
    fn variables_come_before_the_local_system() {
        let target = |url, key, local| environment(url, key, local).target();
        let of = |url: &str, key: &str| (url.to_owned(), key.to_owned());
        let (local, other) = ("http://127.0.0.1:8080", "https://triggers.example.com");
        assert_eq!(target(None, None, true).unwrap(), of(local, "local"));
        assert_eq!(target(None, Some("mine"), true).unwrap(), of(local, "mine"));
        assert_eq!(target(Some("http://127.0.0.1:8080/"), None, true).unwrap().1, "local");
        assert_eq!(target(Some(other), Some("mine"), true).unwrap(), of(other, "mine"));
        assert!(target(Some(other), None, true).is_err(), "the key of the local system is not sent to another one");
        let error = target(None, Some("mine"), false).unwrap_err().to_string();
        assert!(error.contains("TRIGGERS_URL") && error.contains("triggers up"), "{error}");
    }

    #[test]
    fn a_file_of_another_program_is_refused_without_quoting_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_dev_json(folder.path()).unwrap().is_none());
        std::fs::write(folder.path().join("dev.json"), r#"{"base_url": "http://localhost", "api_key": 7777}"#).unwrap();
        let error = read_dev_json(folder.path()).err().unwrap().to_string();
        assert!(error.contains("dev.json") && !error.contains("7777"), "{error}");
        let text = r#"{"base_url": "http://localhost", "api_key": "k", "operator_token": "o"}"#;
        std::fs::write(folder.path().join("dev.json"), text).unwrap();
        assert_eq!(read_dev_json(folder.path()).unwrap().unwrap().api_key, "k");
    }

    #[test]
    fn a_url_that_hides_something_is_refused() {
        assert_eq!(base_url("https://example.com/triggers/").unwrap().as_str(), "https://example.com/triggers");
        for bad in ["", "example.com", "ftp://example.com", "https://user:secret@example.com", "https://e.com/?a=1"] {
            let error = base_url(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_no_header_value_is_refused() {
        for bad in ["", "qx zq", "qxzq\n", "ключ"] {
            let error = authorization(bad).unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
        assert_eq!(format!("{:?}", authorization("secret").unwrap()), "Sensitive");
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let loopback = |text| is_loopback(&Url::parse(text).unwrap());
        for here in ["http://LOCALHOST", "http://127.9.9.9:80", "http://[::1]:8080"] {
            assert!(loopback(here), "{here}");
        }
        for elsewhere in ["http://localhost.example.com", "http://0.0.0.0", "http://10.0.0.1", "http://[::]"] {
            assert!(!loopback(elsewhere), "{elsewhere}");
        }
    }
}
