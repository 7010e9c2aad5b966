//! The roles as separate processes, on a Kafka and a PostgreSQL that exist: what an installation in production looks
//! like.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use devstack::testing::{self, TestDatabase};
use sqlx::{Connection as _, PgConnection, PgPool};
use tempfile::TempDir;
use tokio::process::Command;

use crate::api::Api;
use crate::process::{Process, triggers};

/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(60);
/// Fewer than in production: each costs the shared broker files and the start some time.
pub(crate) const PARTITIONS: u32 = 6;

/// Topics, a database and a folder for the processes of one test.
pub(crate) struct System {
    pub brokers: String,
    pub database_url: String,
    pub topic_prefix: String,
    pub operator_token: String,
    folder: TempDir,
    /// Dropped with the system, if it has one of its own.
    _database: Option<TestDatabase>,
}

/// How a command ended and what it said.
pub(crate) struct Finished {
    pub code: i32,
    pub output: String,
    pub log: String,
}

impl Finished {
    /// Fails unless the command ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.output, self.log);
        self
    }

    /// The standard output as JSON, one value per line or one in all.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        serde_json::Deserializer::from_str(&self.output).into_iter().map(|value| value.expect(&self.output)).collect()
    }
}

impl System {
    /// On the Kafka and PostgreSQL that all tests share.
    pub(crate) async fn shared() -> Self {
        let shared = testing::shared().await;
        let database = shared.database().await;
        let url = database.url.clone();
        let mut system = Self::on(shared.brokers(), &url).await;
        system._database = Some(database);
        system
    }

    /// On these servers, with topics of its own; makes topics and schema.
    pub(crate) async fn on(brokers: &str, database_url: &str) -> Self {
        let system = Self::without_topics(brokers, database_url);
        system.run(&["migrate"]).await.expect(0);
        system.run(&["topics", "apply"]).await.expect(0);
        system
    }

    /// On these servers, without topics and schema.
    pub(crate) fn without_topics(brokers: &str, database_url: &str) -> Self {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        Self {
            brokers: brokers.to_owned(),
            database_url: database_url.to_owned(),
            topic_prefix: format!("t{}.", &unique[..12]),
            operator_token: format!("op_{unique}"),
            folder: tempfile::tempdir().unwrap(),
            _database: None,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A topic's name in this system.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// The binary with everything that its roles need in its environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = triggers(self.folder());
        command
            .env("KAFKA_BROKERS", &self.brokers)
            .env("DATABASE_URL", &self.database_url)
            .env("TOPIC_PREFIX", &self.topic_prefix)
            .env("TOPIC_PARTITIONS", PARTITIONS.to_string())
            .env("OPERATOR_TOKEN", &self.operator_token)
            .env("SEALING_KEY_FILE", self.folder().join("sealing.key"))
            .env("LISTEN", "127.0.0.1:0")
            .env("METRICS_LISTEN", "127.0.0.1:0")
            // Nobody but the test of it waits for a role to drain.
            .env("SHUTDOWN_GRACE_MS", "0");
        command
    }

    pub(crate) fn role(&self, role: &str, settings: &[(&str, &str)]) -> Process {
        let mut command = self.command();
        command.arg(role).envs(settings.iter().copied());
        Process::start(command, self.folder(), role)
    }

    /// Starts `ingest` and `materializer`, waits until both are ready, and makes an organization.
    pub(crate) async fn inbox_roles(&self, settings: &[(&str, &str)]) -> (Process, Process, Api) {
        let (ingest, materializer) = (self.role("ingest", settings), self.role("materializer", &[]));
        let (base_url, _) = tokio::join!(ingest.ready(), materializer.ready());
        let api = Api::of_new_organization(&base_url, &self.operator_token, "Test").await;
        (ingest, materializer, api)
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Finished {
        finish(self.command(), args).await
    }

    /// Runs a command of a client to its end.
    pub(crate) async fn run_as(&self, api: &Api, args: &[&str]) -> Finished {
        let mut command = self.command();
        command.env("TRIGGERS_URL", &api.base_url).env("TRIGGERS_API_KEY", &api.key);
        finish(command, args).await
    }

    /// Starts `send` for the lines of a file, or of a pipe when it is `-`.
    pub(crate) fn start_send(&self, api: &Api, file: &str, concurrency: u16) -> Process {
        let mut command = self.command();
        command.env("TRIGGERS_URL", &api.base_url).env("TRIGGERS_API_KEY", &api.key).stdin(Stdio::piped());
        command.args(["send", "--quiet", "--concurrency", &concurrency.to_string(), "--file", file]);
        Process::start(command, self.folder(), "send")
    }

    /// All rows of all tables, as text. Readable bytes of a `bytea` are readable there too.
    pub(crate) async fn tables(database_url: &str) -> String {
        let mut connection = PgConnection::connect(database_url).await.unwrap();
        sqlx::query("SET bytea_output = 'escape'").execute(&mut connection).await.unwrap();
        // The rows as text: XML has no infinite time.
        sqlx::query_scalar(
            "SELECT string_agg(schemaname || '.' || tablename || ': ' || query_to_xml(
                        format('SELECT t::text AS row FROM %I.%I AS t', schemaname, tablename), true, false, ''), '')
             FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap()
    }

    pub(crate) async fn database(&self) -> PgPool {
        PgPool::connect(&self.database_url).await.unwrap()
    }
}

/// Runs the command to its end.
pub(crate) async fn finish(mut command: Command, args: &[&str]) -> Finished {
    let done = tokio::time::timeout(COMMAND, command.args(args).output()).await;
    let output = done.unwrap_or_else(|_| panic!("triggers {args:?} took longer than {COMMAND:?}")).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Finished { code: output.status.code().unwrap_or(-1), output: text(output.stdout), log: text(output.stderr) }
}
