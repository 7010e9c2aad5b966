//! PostgreSQL from the system's binaries: data directory, command line, readiness, databases.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use crate::child::{Child, Launch};
use crate::options::{Durability, Options};
use crate::tools::{self, PostgresBinaries, User};
use crate::{Error, files, secured};

/// The role that owns everything, and the name of the first database.
const NAME: &str = "triggers";
/// How long `initdb` may take.
const INIT_DEADLINE: Duration = Duration::from_secs(120);
/// How often a connection is tried.
const POLL: Duration = Duration::from_millis(50);
/// Timeout of one connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One PostgreSQL server: the settings that do not change between its starts.
pub(crate) struct Postgres {
    setpriv: PathBuf,
    binaries: PostgresBinaries,
    user: Option<User>,
    folder: PathBuf,
    port: u16,
    durability: Durability,
    /// Settings of TLS; none without it.
    tls: Vec<String>,
    password: String,
}

impl Postgres {
    /// Creates the data directory if it is missing.
    pub(crate) async fn prepare(
        binaries: PostgresBinaries,
        folder: PathBuf,
        user: Option<&User>,
        port: u16,
        options: &Options,
    ) -> Result<Self, Error> {
        if let Some(closed) = tools::barrier(&binaries.folder.join("postgres"), user) {
            let problem = format!("PostgreSQL is in {}, which the user that it runs as cannot enter", closed.display());
            return Err(Error::UnusableTool(problem));
        }
        files::create_closed_dir(&folder, user)?;
        let tls = match &options.security {
            Some(security) => secured::postgres_settings(security, &folder, user)?,
            None => Vec::new(),
        };
        let (setpriv, user, durability) = (tools::setpriv()?, user.cloned(), options.durability);
        let mut postgres = Self { setpriv, binaries, user, folder, port, durability, tls, password: String::new() };
        if postgres.data().exists() {
            files::give_to(&postgres.data(), postgres.user.as_ref())?;
            let path = postgres.password_file();
            postgres.password = fs::read_to_string(&path).map_err(Error::io(format!("read {}", path.display())))?;
        } else {
            postgres.init().await?;
        }
        Ok(postgres)
    }

    async fn init(&mut self) -> Result<(), Error> {
        tracing::info!("Creating the data directory of PostgreSQL {}", self.binaries.major);
        self.password = Uuid::new_v4().simple().to_string();
        files::write(&self.password_file(), &self.password, 0o600)?;
        files::give_to(&self.password_file(), self.user.as_ref())?;
        // Created under another name and renamed, so that an interrupted attempt is not used as data.
        let unfinished = self.folder.join("data.unfinished");
        files::remove_dir(&unfinished)?;
        files::create_dir(&unfinished)?;
        files::set_mode(&unfinished, 0o700)?;
        files::give_to(&unfinished, self.user.as_ref())?;
        let mut args: Vec<OsString> = vec!["-D".into(), unfinished.clone().into()];
        args.push(format!("--pwfile={}", self.password_file().display()).into());
        // The locale C exists everywhere and sorts by bytes, so that no order depends on the machine.
        args.extend(["-A", "scram-sha-256", "-U", NAME, "-E", "UTF8", "--locale=C"].map(OsString::from));
        if self.durability == Durability::Test {
            args.push("--no-sync".into());
        }
        let log = self.folder.join("initdb.log");
        let child = self.launch("initdb", args, "KILL", &log).spawn()?;
        let Ok(status) = tokio::time::timeout(INIT_DEADLINE, child.wait()).await else {
            child.signal_family(crate::Signal::KILL);
            return Err(Error::NotReady {
                server: "initdb",
                seconds: INIT_DEADLINE.as_secs(),
                log: files::tail(&[&log]),
            });
        };
        if !status.is_some_and(|status| status.success()) {
            let status = status.map_or_else(|| "unknown status".into(), |status| status.to_string());
            return Err(Error::Exited { server: "initdb", status, log: files::tail(&[&log]) });
        }
        fs::rename(&unfinished, self.data()).map_err(Error::io(format!("move {}", unfinished.display())))
    }

    fn launch<'a>(
        &'a self,
        program: &str,
        args: Vec<OsString>,
        death_signal: &'static str,
        output: &'a Path,
    ) -> Launch<'a> {
        Launch {
            setpriv: &self.setpriv,
            program: self.binaries.folder.join(program),
            args,
            folder: &self.folder,
            user: self.user.as_ref(),
            environment: None,
            death_signal,
            output,
        }
    }

    /// The caller must ensure that no process of an earlier run uses the data.
    pub(crate) fn spawn(&self) -> Result<Child, Error> {
        self.remove_stale_pid_file()?;
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            "unix_socket_directories=".to_owned(),
            "max_connections=300".to_owned(),
            // The client gets the error of a failed statement; its text, which may contain payloads, is not logged.
            "log_min_messages=log".to_owned(),
            "log_min_error_statement=panic".to_owned(),
            "log_checkpoints=off".to_owned(),
            "log_autovacuum_min_duration=-1".to_owned(),
        ];
        settings.extend(self.tls.iter().cloned());
        match self.durability {
            Durability::Full => settings.push("shared_buffers=256MB".to_owned()),
            // Commits are still written, only not synced: `synchronous_commit=off` would lose some when tests kill the
            // server.
            Durability::Test => settings.extend(["fsync=off", "shared_buffers=64MB"].map(str::to_owned)),
        }
        let mut args: Vec<OsString> = vec!["-D".into(), self.data().into()];
        args.extend(settings.into_iter().flat_map(|setting| ["-c".into(), setting.into()]));
        // QUIT is PostgreSQL's immediate shutdown, which also stops the backends.
        self.launch("postgres", args, "QUIT", &self.log()).spawn()
    }

    /// A killed server leaves its pid file, and PostgreSQL refuses to start while a process with that id exists: a
    /// zombie, or another process after a reboot.
    fn remove_stale_pid_file(&self) -> Result<(), Error> {
        let path = self.data().join("postmaster.pid");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Waits until it answers a query, and creates the first database.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        let url = self.url("postgres");
        let mut connection = loop {
            match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect(&url)).await {
                Ok(Ok(connection)) => break connection,
                _ => tokio::time::sleep(POLL).await,
            }
        };
        sqlx::query("SELECT 1").execute(&mut connection).await?;
        let found = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1").bind(NAME);
        if found.fetch_optional(&mut connection).await?.is_none() {
            create_database(&mut connection, NAME).await?;
        }
        connection.close().await?;
        Ok(())
    }

    /// The URL of a database, with the password.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{NAME}:{}@127.0.0.1:{}/{database}?sslmode=disable", self.password, self.port)
    }

    pub(crate) fn main_url(&self) -> String {
        self.url(NAME)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn major(&self) -> u32 {
        self.binaries.major
    }

    /// The data directory, which is the working directory of PostgreSQL's processes.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn password_file(&self) -> PathBuf {
        self.folder.join("password")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    pub(crate) fn log_tail(&self) -> String {
        files::tail(&[&self.log()])
    }
}

/// Creates an empty database. The name is not escaped, so it must not come from input.
pub(crate) async fn create_database(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE \"{name}\""))).execute(connection).await.map(|_| ())
}

/// Drops a database and closes its connections. The name is not escaped, so it must not come from input.
pub(crate) async fn drop_database(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let statement = format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)");
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await.map(|_| ())
}
