//! TLS to a real PostgreSQL, with certificates of a CA of the test.

use std::path::Path;

use devstack::{Options, Stack};
use runtime::postgres::{self, PostgresConfig};
use sqlx::postgres::{PgListener, PgPool};
use testkit::certificates::Authority;

/// Whether the connection of the query is encrypted, as the server sees it.
const IS_ENCRYPTED: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

fn pool(url: &str) -> PgPool {
    postgres::connect(&PostgresConfig::new(url)).unwrap()
}

fn write_ca(folder: &Path, name: &str, authority: &Authority) -> String {
    let path = folder.join(name);
    std::fs::write(&path, authority.pem()).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_and_the_name_of_the_server_are_verified() {
    let authority = Authority::new();
    let security = Some(authority.security(&["localhost"], &[]));
    let stack = Stack::start(Options { kafka: false, security, ..Options::test() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let right = write_ca(folder.path(), "right.pem", &authority);
    let wrong = write_ca(folder.path(), "wrong.pem", &Authority::new());
    let plain = stack.database_url();
    let url = |host: &str, ca: &str| {
        let full = format!("sslmode=verify-full&sslrootcert={ca}");
        plain.replace("127.0.0.1", host).replace("sslmode=disable", &full)
    };

    let verified = pool(&url("localhost", &right));
    postgres::check_connection(&verified).await.unwrap();
    let encrypted: bool = sqlx::query_scalar(IS_ENCRYPTED).fetch_one(&verified).await.unwrap();
    assert!(encrypted, "a verified connection is encrypted");
    // `LISTEN` has a connection of its own, made from the same options.
    let mut listener = PgListener::connect_with(&verified).await.unwrap();
    let encrypted: bool = sqlx::query_scalar(IS_ENCRYPTED).fetch_one(&mut listener).await.unwrap();
    assert!(encrypted, "so is the connection that listens");
    listener.listen("news").await.unwrap();
    sqlx::query("NOTIFY news, 'x'").execute(&verified).await.unwrap();
    assert_eq!(listener.recv().await.unwrap().payload(), "x");

    for (url, expected) in
        [(url("localhost", &wrong), "sslrootcert=FILE"), (url("127.0.0.1", &right), "not for the host of DATABASE_URL")]
    {
        let refused = pool(&url);
        let error = postgres::check_connection(&refused).await.unwrap_err();
        assert!(error.contains(expected) && !error.contains("triggers:"), "{error}");
        let statement = sqlx::query("SELECT 1").execute(&refused).await.unwrap_err();
        assert!(postgres::explain(&statement).contains(expected), "a role's reason says the same: {statement}");
        let listening = PgListener::connect_with(&refused).await.err().unwrap();
        assert!(postgres::explain(&listening).contains(expected), "{listening}");
    }
    // The CA alone, without the name.
    let named = url("127.0.0.1", &right).replace("verify-full", "verify-ca");
    postgres::check_connection(&pool(&named)).await.unwrap();
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_refused_with_what_to_do() {
    let (database, _pool) = crate::database().await;
    let url = database.url.replace("sslmode=disable", "sslmode=verify-full");
    let error = postgres::check_connection(&pool(&url)).await.unwrap_err();
    assert!(error.contains("does not support TLS") && error.contains("sslmode=disable"), "{error}");
}
