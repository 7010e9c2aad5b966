//! The system under load: its address, keys, database and brokers, from the command line or from `dev.json` in the data
//! folder.

use std::path::{Path, PathBuf};

use anyhow::Context;
use loadkit::Failure;
use serde::Deserialize;

use crate::cli::SystemArgs;

/// An address for plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// `host:port`.
    pub authority: String,
    /// Prefix of the routes; empty, or `/…` without a slash at the end.
    pub path: String,
    pub port: u16,
}

impl Address {
    /// Reads a base URL. Refuses other machines than this one, unless `allow_remote`.
    pub(crate) fn parse(url: &str, allow_remote: bool) -> Result<Self, Failure> {
        let refuse = |why: &str| Failure::Usage(format!("{url}: {why}"));
        let uri: http::Uri = url.parse().map_err(|_| refuse("not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(refuse("only plain http:// is supported"));
        }
        let host = uri.host().ok_or_else(|| refuse("it has no host"))?;
        if !allow_remote && !matches!(host, "127.0.0.1" | "localhost" | "[::1]") {
            return Err(refuse("not on this machine; use --allow-remote only for systems that you may put under load"));
        }
        let port = uri.port_u16().unwrap_or(80);
        Ok(Self { authority: format!("{host}:{port}"), path: uri.path().trim_end_matches('/').to_owned(), port })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}{}", self.authority, self.path)
    }
}

/// The file that `triggers up` writes. Unknown fields are ignored; without a field its measurement is skipped.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct DevFile {
    base_url: Option<String>,
    metrics_urls: Vec<String>,
    operator_token: Option<String>,
    /// Bootstrap servers of the broker.
    pub kafka_brokers: Option<String>,
    database_url: Option<String>,
}

impl DevFile {
    /// Reads `dev.json` in the data folder; `None` when there is none.
    pub(crate) fn read(data_dir: &Path) -> Result<Option<Self>, Failure> {
        let path = data_dir.join("dev.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(anyhow::Error::new(error).context(format!("reading {}", path.display())).into()),
        };
        let file = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not a file of `triggers up`", path.display()))?;
        Ok(Some(file))
    }
}

/// The system under load. Holds secrets, so it cannot be printed.
#[derive(Clone)]
pub(crate) struct Target {
    pub address: Address,
    /// `host:port` of further instances, which get a share of the load.
    pub further_addresses: Vec<String>,
    /// The metrics of the first instance.
    pub metrics: Option<Address>,
    /// A key to use instead of making organizations.
    pub key: Option<String>,
    /// Token to create organizations and keys with.
    pub operator_token: Option<String>,
    /// The view's database; without it visibility is not measured.
    pub database_url: Option<String>,
    /// The broker; without it its CPU is not attributed.
    pub kafka_brokers: Option<String>,
    /// Folder that remembers the created organizations.
    pub data_dir: PathBuf,
}

impl Target {
    /// `host:port` of every instance.
    pub(crate) fn addresses(&self) -> Vec<String> {
        [std::slice::from_ref(&self.address.authority), &self.further_addresses].concat()
    }

    /// The system that `arguments` name, or else the one that `dev.json` in the data folder names.
    pub(crate) fn find(arguments: &SystemArgs) -> Result<Self, Failure> {
        // With --url the system is not the one in the data folder.
        let dev = match arguments.url {
            Some(_) => DevFile::default(),
            None => DevFile::read(&arguments.data_dir)?.unwrap_or_default(),
        };
        let Some(url) = arguments.url.clone().or(dev.base_url) else {
            let path = arguments.data_dir.join("dev.json");
            return Err(Failure::Usage(format!(
                "no running system found in {}; start one with `make up`, or give --url",
                path.display()
            )));
        };
        let metrics_url = dev.metrics_urls.first();
        let metrics = metrics_url.map(|url| Address::parse(url, arguments.allow_remote)).transpose()?;
        let target = Self {
            address: Address::parse(&url, arguments.allow_remote)?,
            further_addresses: Vec::new(),
            metrics,
            key: arguments.key.clone(),
            operator_token: arguments.operator_token.clone().or(dev.operator_token),
            database_url: arguments.database_url.clone().or(dev.database_url),
            kafka_brokers: dev.kafka_brokers,
            data_dir: arguments.data_dir.clone(),
        };
        if target.key.is_none() && target.operator_token.is_none() {
            return Err(Failure::Usage("give --key, or --operator-token to create organizations with".to_owned()));
        }
        Ok(target)
    }
}

/// The port of the first address in `text`: a URL (`postgres://user@host:5432/db`) or bootstrap servers
/// (`host:9092,…`).
pub(crate) fn port_of(text: &str) -> Option<u16> {
    let after_scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = after_scheme.split(['/', ',', '?']).next()?;
    authority.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn load_on_another_machine_must_be_allowed() {
        let local = Address::parse("http://127.0.0.1:8080/", false).unwrap();
        assert_eq!((local.authority.as_str(), local.path.as_str(), local.port), ("127.0.0.1:8080", "", 8080));
        assert_eq!(Address::parse("http://localhost:1/api/", false).unwrap().url(), "http://localhost:1/api");
        for bad in ["http://example.com", "http://127.0.0.1.example.com:80", "http://10.0.0.1:80"] {
            assert!(matches!(Address::parse(bad, false), Err(Failure::Usage(_))), "{bad}");
            assert!(Address::parse(bad, true).is_ok(), "{bad}");
        }
        assert!(Address::parse("https://127.0.0.1", true).is_err());
    }

    #[test]
    fn ports_are_found_in_urls_and_bootstrap_lists() {
        assert_eq!(port_of("postgres://user:secret@127.0.0.1:5433/triggers?sslmode=disable"), Some(5433));
        assert_eq!(port_of("127.0.0.1:9092,127.0.0.1:9093"), Some(9092));
        assert_eq!(port_of("postgres://localhost/triggers"), None);
    }

    #[test]
    fn a_missing_dev_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(DevFile::read(folder.path()).unwrap().is_none());
        let text = r#"{"base_url":"http://127.0.0.1:8080","api_key":"k","operator_token":"t",
            "metrics_urls":["http://127.0.0.1:8080/metrics"],"kafka_brokers":"127.0.0.1:9092"}"#;
        std::fs::write(folder.path().join("dev.json"), text).unwrap();
        let data_dir = folder.path().to_str().unwrap();
        let Command::Run(arguments) = Cli::try_parse_from(["bench", "run", "--data-dir", data_dir]).unwrap().command
        else {
            panic!()
        };
        let target = Target::find(&arguments.system).unwrap();
        assert_eq!(target.address.port, 8080);
        assert_eq!(target.operator_token.as_deref(), Some("t"));
        assert_eq!(target.kafka_brokers.as_deref(), Some("127.0.0.1:9092"));
        assert_eq!(target.metrics.map(|metrics| metrics.path).as_deref(), Some("/metrics"));
        assert!(target.database_url.is_none());
    }
}
