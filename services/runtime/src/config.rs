//! Options for PostgreSQL, each also an environment variable, validated at start, and the values of flags. Options for
//! Kafka are in `kafka`, those of a role in its crate.

use std::ffi::OsStr;
use std::time::Duration;

use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Args, Command};

use crate::postgres::{PostgresConfig, check_files, connect_options};

const DEFAULT_DATABASE_URL: &str = "postgres://triggers@127.0.0.1:5432/triggers";

/// An invalid value of an option.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{option}: {reason}")]
pub struct InvalidConfig {
    /// Option or environment variable.
    pub option: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// Values of a flag that is also an environment variable: true, 1, yes or on; false, 0, no, off or empty. Clap's own
/// parser for flags takes every other word as true, so that `OPEN_SIGNUP=disabled` would open the sign-up.
#[derive(Clone)]
pub struct FlagParser;

impl TypedValueParser for FlagParser {
    type Value = bool;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<bool, clap::Error> {
        if value.is_empty() {
            return Ok(false);
        }
        BoolishValueParser::new().parse_ref(command, arg, value).map_err(|_| {
            let option = arg.and_then(Arg::get_long).unwrap_or_default();
            let variable = arg.and_then(Arg::get_env).unwrap_or_default().display();
            let value = value.display();
            let reason = format!(
                "invalid value '{value}' for '--{option}' ({variable}): use true, 1, yes, on, false, 0, no or off\n"
            );
            clap::Error::raw(ErrorKind::InvalidValue, reason).with_cmd(command)
        })
    }
}

/// Parses a secret of a flag or variable: the text itself, or with `@FILE` the content of that file without line breaks
/// at its end. What is on a command line is visible to every user of the machine, and variables to its owner.
///
/// # Errors
/// When the file cannot be read or is empty; never the secret.
pub fn secret(text: &str) -> Result<String, String> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let content = std::fs::read_to_string(path).map_err(|error| format!("cannot read the file {path}: {error}"))?;
    match content.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("the file {path} is empty")),
        secret => Ok(secret.to_owned()),
    }
}

/// How to connect to PostgreSQL.
#[derive(Args, Clone)]
pub struct PostgresArgs {
    /// postgres://user:password@host:port/database [default: postgres://triggers@127.0.0.1:5432/triggers]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = secret)]
    pub database_url: Option<String>,
    /// Maximum number of connections per process
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", default_value_t = 16)]
    pub database_max_connections: u32,
    /// How long a request waits for a connection, milliseconds
    #[arg(long, env = "DATABASE_ACQUIRE_TIMEOUT_MS", default_value_t = 2000)]
    pub database_acquire_timeout_ms: u64,
}

/// Checks that PostgreSQL can be reached by this URL, without connecting.
///
/// # Errors
/// What is wrong with the URL; never the password.
pub fn check_database_url(url: &str) -> Result<(), InvalidConfig> {
    let invalid = |reason| Err(InvalidConfig { option: "DATABASE_URL", reason });
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return invalid("must start with postgres://".to_owned());
    }
    connect_options(url).map(drop).map_err(|error| error.to_string()).and_then(|()| check_files(url)).or_else(invalid)
}

impl PostgresArgs {
    /// Validates the values and makes the configuration.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn config(&self) -> Result<PostgresConfig, InvalidConfig> {
        let invalid = |option, reason: &str| Err(InvalidConfig { option, reason: reason.to_owned() });
        let url = self.database_url.as_deref().unwrap_or(DEFAULT_DATABASE_URL);
        check_database_url(url)?;
        // The projector, the retry worker, the listener and the pollers use one each.
        if !(5..=1000).contains(&self.database_max_connections) {
            return invalid("DATABASE_MAX_CONNECTIONS", "must be from 5 to 1000");
        }
        if !(10..=60_000).contains(&self.database_acquire_timeout_ms) {
            return invalid("DATABASE_ACQUIRE_TIMEOUT_MS", "must be from 10 to 60000");
        }
        let mut config = PostgresConfig::new(url);
        config.max_connections = self.database_max_connections;
        config.acquire_timeout = Duration::from_millis(self.database_acquire_timeout_ms);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_its_text_or_the_content_of_a_file() {
        assert_eq!(secret("zap_live_x").as_deref(), Ok("zap_live_x"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let named = format!("@{}", path.display());
        assert!(secret(&named).unwrap_err().contains(&path.display().to_string()), "a missing file is named");
        for (content, expected) in [("word\n", "word"), ("word\r\n", "word"), (" two words", " two words")] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(secret(&named).as_deref(), Ok(expected));
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(secret(&named).unwrap_err().contains("is empty"));
    }
}
