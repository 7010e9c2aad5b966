//! What tests need on top of a stack: one shared by a whole run, a database and a topic prefix per test, and waiting
//! for a condition. Below it: reading a topic, and the processes of a stack that must end with it.
//!
//! Under `devstack exec` all test processes share one stack; without it each process starts its own at first use.

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
/// How often `eventually` looks.
const POLL: Duration = Duration::from_millis(20);
/// How long the end of a test waits for its database to be dropped.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);

static SHARED: OnceCell<Shared> = OnceCell::const_new();

/// The stack that all tests of this process share.
pub struct Shared {
    brokers: String,
    database_url: String,
    /// A runtime that outlives every test's own.
    background: Handle,
}

/// The shared stack, started at the first call unless `devstack exec` has started one.
///
/// # Panics
/// When it cannot be started: no test could go on.
pub async fn shared() -> &'static Shared {
    let start = || async {
        match start_shared().await {
            Ok(shared) => shared,
            Err(reason) => panic!("the shared stack did not start: {reason}"),
        }
    };
    SHARED.get_or_init(start).await
}

async fn start_shared() -> Result<Shared, String> {
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
fn serve_shared(runtime: &Runtime, ready: oneshot::Sender<Result<Shared, String>>) {
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
        let shared = addresses.map(|(brokers, database_url)| Shared { brokers, database_url, background });
        drop(ready.send(shared.map_err(|error| error.to_string())));
        std::future::pending::<()>().await;
    });
}

impl Shared {
    /// `host:port` of Kafka.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// A prefix for topic and group names that no other test has, such as `t4f2a9c01b7d3.`.
    #[must_use]
    pub fn topic_prefix(&self) -> String {
        format!("t{}.", short_id())
    }

    /// A fresh, empty database, dropped at the end of the returned value.
    ///
    /// # Panics
    /// When PostgreSQL refuses to make it.
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
            Ok(Err(error)) => panic!("cannot make the database {name}: {error}"),
            Err(error) => panic!("cannot make the database {name}: {error}"),
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
                // What cannot be dropped goes with the temporary server.
                drop(postgres::drop_database(&mut connection, &name).await);
            }
            let _ = done.send(());
        });
        // On the background runtime, so this thread may block; a test that leaks is worse than one that ends slowly.
        let _ = dropped.recv_timeout(DROP_TIMEOUT);
    }
}

/// Polls `condition` every 20 ms until it yields a value.
///
/// # Panics
/// At the deadline, with `what`: say what was waited for.
pub async fn eventually<T, F, Fut>(deadline: Duration, what: &str, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let begun = Instant::now();
    loop {
        let Some(left) = deadline.checked_sub(begun.elapsed()) else {
            panic!("did not happen within {deadline:?}: {what}");
        };
        // Bounded as well: a condition that hangs is one that does not hold.
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
    fn another_database_keeps_the_rest_of_the_url() {
        let url = "postgres://triggers:word@127.0.0.1:5432/triggers?sslmode=disable";
        assert_eq!(with_database(url, "x"), "postgres://triggers:word@127.0.0.1:5432/x?sslmode=disable");
        assert_eq!(with_database("postgres://h/a", "b"), "postgres://h/b");
    }

    #[tokio::test]
    #[should_panic(expected = "did not happen within 50ms: the moon")]
    async fn waiting_ends_at_the_deadline() {
        eventually(Duration::from_millis(50), "the moon", || async { None::<()> }).await;
    }
}
