//! The servers exit with the process that started them, and the next start has their data.

use std::time::Duration;

use devstack::Signal;
use devstack::testing::eventually;
use devstack::testing::processes::gone;

use crate::command::Running;
use crate::traffic;

#[tokio::test]
async fn killing_the_parent_stops_the_servers_and_keeps_the_data() {
    let parent = tempfile::tempdir().unwrap();
    open_to_servers(parent.path());
    let folder = parent.path().join("data");
    let mut first = Running::start(Some(&folder));
    traffic::insert_row(&first.database_url, "a row").await;
    traffic::create_topic(&first.brokers, "kept").await;
    traffic::produce(&first.brokers, "kept", "a record").await;
    let servers = first.servers();
    first.signal(Signal::KILL);
    first.child.wait().unwrap();

    // Started while the old servers may still be exiting.
    let mut second = Running::start(Some(&folder));
    gone(&servers).await;
    assert_ne!(first.brokers, second.brokers, "the ports must change");
    assert_eq!(traffic::read_rows(&second.database_url).await, ["a row"]);
    assert_eq!(traffic::consume(&second.brokers, "kept").await, "a record");

    let servers = second.servers();
    second.signal(Signal::INT);
    assert!(second.child.wait().unwrap().success());
    gone(&servers).await;
}

#[tokio::test]
async fn a_temporary_folder_is_removed_when_its_process_is_killed() {
    let mut running = Running::start(None);
    let servers = running.servers();
    assert!(running.data_dir.is_dir());
    running.signal(Signal::KILL);
    running.child.wait().unwrap();
    gone(&servers).await;
    eventually(Duration::from_secs(10), "the folder is removed", || async {
        (!running.data_dir.exists()).then_some(())
    })
    .await;
}

/// If the test runs as root, the user of the servers must be able to traverse the parent of the data folder.
fn open_to_servers(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).unwrap();
}
