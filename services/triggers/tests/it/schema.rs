//! A database that does not have the schema of the binary: no role consumes or is ready, and each says what to do.

use std::time::Duration;

use devstack::testing::{self, eventually};
use devstack::{Options, Stack};
use schemas::postgres::MIGRATIONS;
use sqlx::PgPool;
use tokio::process::Command;

use crate::api::http;
use crate::process::Process;
use crate::system::{System, finish};

const ROLES: [&str; 3] = ["ingest", "materializer", "dispatcher"];
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary with a sealing key: the dispatcher creates none.
fn with_key(system: &System) -> Command {
    let mut command = system.command();
    command.env_remove("SEALING_KEY_FILE").env("SEALING_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    command
}

/// Each role on `database_url` ends with `sentence` as its error.
async fn each_role_is_refused(system: &System, database_url: &str, sentence: &str) {
    for role in ROLES {
        let mut command = with_key(system);
        command.env("DATABASE_URL", database_url);
        let log = finish(command, &[role]).await.expect(1).log;
        let error = log.lines().rfind(|line| line.starts_with("triggers: ")).unwrap_or_default();
        assert!(error.contains("(DATABASE_URL): ") && error.contains(sentence), "{role}: {log}");
        assert!(!log.contains("does not exist"), "{role} used the database: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_refuses_a_database_without_its_schema() {
    let system = System::shared().await;
    let empty = testing::shared().await.database().await;
    each_role_is_refused(&system, &empty.url, "it has no schema; run: triggers migrate").await;

    let pool = system.database().await;
    let run = async |statement: &'static str| {
        assert_eq!(sqlx::query(statement).execute(&pool).await.unwrap().rows_affected(), 1, "{statement}");
    };
    run("DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)").await;
    let version = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap();
    let reason = format!("needs version {version}; run: triggers migrate");
    each_role_is_refused(&system, &system.database_url, &reason).await;
    run("UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 3").await;
    each_role_is_refused(&system, &system.database_url, "before the first release").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_refuses_the_schema_of_a_newer_version() {
    let system = System::shared().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (99, 'later', true, 'x', 0)";
    sqlx::query(newer).execute(&system.database().await).await.unwrap();
    each_role_is_refused(&system, &system.database_url, "newer Triggers version; upgrade this binary").await;
    let migrated = system.run(&["migrate"]).await.expect(1);
    assert!(migrated.log.contains("newer Triggers version; upgrade this binary"), "{}", migrated.log);
    let checked = system.run(&["doctor"]).await.expect(1).output;
    assert!(checked.contains("FAIL  schema: its schema has version 99"), "{checked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_starts_without_postgresql_checks_the_schema_later() {
    let stack = Stack::start(Options { kafka: false, ..Options::test() }).await.unwrap();
    let system = System::on(testing::shared().await.brokers(), &stack.database_url()).await;
    let pool = PgPool::connect(&system.database_url).await.unwrap();
    sqlx::query("DROP TABLE _sqlx_migrations").execute(&pool).await.unwrap();
    pool.close().await;
    stack.postgres().unwrap().stop().await;
    let mut roles = Vec::new();
    for role in ROLES {
        let mut command = with_key(&system);
        command.arg(role);
        let process = Process::start(command, system.folder(), role);
        let url = format!("http://127.0.0.1:{}/health", process.port().await);
        eventually(PATIENCE, "the role lives and is not ready", || async {
            let status = async |path: &str| Some(http().get(format!("{url}/{path}")).send().await.ok()?.status());
            (status("live").await? == 200 && status("ready").await? == 503).then_some(())
        })
        .await;
        roles.push(process);
    }
    stack.postgres().unwrap().start().await.unwrap();
    for mut role in roles {
        assert_eq!(role.ended().await.code(), Some(1), "{}", role.log());
        assert!(role.log().contains("it has no schema; run: triggers migrate"), "{}", role.log());
    }
    stack.stop().await;
}
