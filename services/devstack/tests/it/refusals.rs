//! Errors of a refused start.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use devstack::{Data, Error, Options, Stack};

/// PostgreSQL only: these tests finish before or soon after it is up.
fn postgres_on(folder: &Path) -> Options {
    Options { data: Data::Folder(folder.to_path_buf()), kafka: false, ..Options::test() }
}

async fn refusal(options: Options) -> Error {
    match Stack::start(options).await {
        Ok(_) => panic!("it was started"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_second_start_on_a_folder_is_refused_with_its_holder() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    open(parent.path());
    let folder = parent.path().join("data");
    let stack = Stack::start(postgres_on(&folder)).await.unwrap();
    let error = refusal(postgres_on(&folder)).await;
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    let holder = format!("process {}, PostgreSQL on 127.0.0.1:", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    stack.stop().await;
    Stack::start(postgres_on(&folder)).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = refusal(Options { kafka: false, postgres_port: port, ..Options::test() }).await;
    assert_eq!(
        error.to_string(),
        format!("port {port} on 127.0.0.1, wanted for PostgreSQL, is already in use by another program")
    );
    let error = refusal(Options { postgres: false, kafka_port: port, ..Options::test() }).await;
    assert!(error.to_string().contains(&format!("port {port} on 127.0.0.1, wanted for Kafka")), "{error}");
}

#[tokio::test]
async fn data_of_another_version_is_refused_and_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    for (record, expected) in [
        (r#"{"format":7}"#, "has format 7, and this release knows format 1 only"),
        (
            r#"{"format":1,"kafka":null,"postgres_major":9,"cluster_id":"x","servers":null}"#,
            "was written by PostgreSQL 9",
        ),
        (
            r#"{"format":1,"kafka":"99.0.0","postgres_major":null,"cluster_id":"x","servers":null}"#,
            "was written by Kafka 99.0.0",
        ),
        ("nonsense", "has a version.json that cannot be read"),
    ] {
        fs::write(folder.path().join("version.json"), record).unwrap();
        let options = Options { data: Data::Folder(folder.path().to_path_buf()), ..Options::test() };
        let error = refusal(options).await;
        assert!(matches!(error, Error::Version { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join("version.json")).unwrap(), record);
    }
}

fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
}
