//! Helpers for tests: a stack shared by a whole run, a database and a topic prefix per test, and waiting for a
//! condition. Submodules: reading a topic, a name server, and checking that the processes of a stack have exited.
//!
//! Under `devstack exec` all test processes share one stack; without it each process starts its own at first use.

pub mod name_server;
pub mod processes;
mod schema;
mod topic;

use std::future::Future;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OnceCell, oneshot};
use uuid::Uuid;

pub use self::schema::dump_schema;
pub use self::topic::read_topic;
use crate::{Options, Stack, postgres};

/// Set by `devstack exec`: `host:port` of the shared Kafka.
pub const KAFKA_VARIABLE: &str = "TRIGGERS_TEST_KAFKA";
/// Set by `devstack exec`: URL of a database on the shared PostgreSQL.
pub const DATABASE_VARIABLE: &str = "TRIGGERS_TEST_DATABASE";
/// How often `eventually` checks its condition.
const POLL: Duration = Duration::from_millis(20);
/// How long a test waits at its end until its database is dropped.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);

static SHARED: OnceCell<SharedServers> = OnceCell::const_new();

/// The stack that all tests of this process share.
pub struct SharedServers {
    brokers: String,
    database_url: String,
    /// A runtime that outlives the runtime of each test.
    background: Handle,
}

/// The shared stack, started at the first call unless `devstack exec` has started one.
///
/// # Panics
/// When it cannot be started.
pub async fn shared() -> &'static SharedServers {
    let start = || async {
        match start_shared().await {
            Ok(shared) => shared,
            Err(reason) => panic!("the shared stack did not start: {reason}"),
        }
    };
    SHARED.get_or_init(start).await
}

async fn start_shared() -> Result<SharedServers, String> {
    let (ready, started) = oneshot::channel();
    let serve = move || {
        let runtime = match Builder::new_multi_thread().worker_threads(1).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error.to_string()))),
        };
        serve_shared(&runtime, ready);
    };
    thread::Builder::new().name("devstack-shared".into()).spawn(serve).map_err(|error| error.to_string())?;
    started.await.map_err(|error| error.to_string())?
}

/// Keeps the stack and the runtime for as long as the process lives.
fn serve_shared(runtime: &Runtime, ready: oneshot::Sender<Result<SharedServers, String>>) {
    let background = runtime.handle().clone();
    let from_environment = std::env::var(KAFKA_VARIABLE).ok().zip(std::env::var(DATABASE_VARIABLE).ok());
    runtime.block_on(async {
        let mut own = None;
        let addresses = match from_environment {
            Some(addresses) => Ok(addresses),
            None => Stack::start(Options::test()).await.map(|stack| {
                let stack = own.insert(stack);
                (stack.kafka_brokers().to_owned(), stack.database_url())
            }),
        };
        let shared = addresses.map(|(brokers, database_url)| SharedServers { brokers, database_url, background });
        drop(ready.send(shared.map_err(|error| error.to_string())));
        std::future::pending::<()>().await;
    });
}

impl SharedServers {
    /// `host:port` of Kafka.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// A unique prefix for topic and group names, such as `t4f2a9c01b7d3.`.
    #[must_use]
    pub fn topic_prefix(&self) -> String {
        format!("t{}.", short_id())
    }

    /// A new, empty database, dropped together with the returned value.
    ///
    /// # Panics
    /// When PostgreSQL cannot create it.
    pub async fn database(&self) -> TestDatabase {
        let name = format!("test_{}", short_id());
        let (admin_url, wanted) = (self.database_url.clone(), name.clone());
        let made = self.background.spawn(async move {
            let mut connection = PgConnection::connect(&admin_url).await?;
            postgres::create_database(&mut connection, &wanted).await?;
            connection.close().await
        });
        match made.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("cannot create the database {name}: {error}"),
            Err(error) => panic!("cannot create the database {name}: {error}"),
        }
        let url = with_database(&self.database_url, &name);
        TestDatabase { url, name, admin_url: self.database_url.clone(), background: self.background.clone() }
    }
}

/// A database of one test.
pub struct TestDatabase {
    /// Its URL, with the password.
    pub url: String,
    name: String,
    admin_url: String,
    background: Handle,
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (name, admin_url) = (std::mem::take(&mut self.name), std::mem::take(&mut self.admin_url));
        let (done, dropped) = mpsc::sync_channel(1);
        self.background.spawn(async move {
            if let Ok(mut connection) = PgConnection::connect(&admin_url).await {
                // A database that cannot be dropped is removed with the temporary server.
                drop(postgres::drop_database(&mut connection, &name).await);
            }
            let _ = done.send(());
        });
        // The background runtime drops it, so this thread may block. A slow test is better than a leaked database.
        let _ = dropped.recv_timeout(DROP_TIMEOUT);
    }
}

/// Polls `condition` every 20 ms until it yields a value.
///
/// # Panics
/// At the deadline, with `what`, the expected condition.
pub async fn eventually<T, F, Fut>(deadline: Duration, what: &str, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        let Some(left) = deadline.checked_sub(started.elapsed()) else {
            panic!("did not happen within {deadline:?}: {what}");
        };
        // The timeout also covers a condition that hangs.
        if let Ok(Some(value)) = tokio::time::timeout(left, condition()).await {
            return value;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn short_id() -> String {
    let mut id = Uuid::new_v4().simple().to_string();
    id.truncate(12);
    id
}

/// The URL with another database's name in it.
fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = url.split_once('?').unwrap_or((url, ""));
    let server = address.rsplit_once('/').map_or(address, |(server, _)| server);
    let separator = if parameters.is_empty() { "" } else { "?" };
    format!("{server}/{name}{separator}{parameters}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_database_changes_only_the_database_name() {
        let url = "postgres://triggers:word@127.0.0.1:5432/triggers?sslmode=disable";
        assert_eq!(with_database(url, "x"), "postgres://triggers:word@127.0.0.1:5432/x?sslmode=disable");
        assert_eq!(with_database("postgres://h/a", "b"), "postgres://h/b");
    }

    #[tokio::test]
    #[should_panic(expected = "did not happen within 50ms: the moon")]
    async fn eventually_panics_at_the_deadline() {
        eventually(Duration::from_millis(50), "the moon", || async { None::<()> }).await;
    }
}
