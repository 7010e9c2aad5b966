//! What other users of the machine can learn from the servers, and which jars are run.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use devstack::Signal;

use crate::command::{Running, SECRET};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn allow_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn servers_inherit_no_secrets_and_keep_their_files_private() {
    let parent = tempfile::tempdir_in("/tmp").unwrap();
    allow_all(parent.path());
    let data = parent.path().join("data");
    let kafka = data.join("kafka");
    let private = ["data", "logs", "tmp"].map(|name| kafka.join(name));
    for start in ["first", "second"] {
        let mut running = Running::start(Some(&data));
        for (pid, name) in running.servers() {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
            let environment = String::from_utf8_lossy(&environment).replace('\0', "\n");
            assert!(!environment.contains(SECRET), "{name} has the caller's variables: {environment}");
        }
        for folder in &private {
            assert_eq!(mode(folder), 0o700, "{start}: {}", folder.display());
        }
        for file in [kafka.join("kafka.out"), kafka.join("server.properties"), data.join("postgres/postgres.log")] {
            assert_eq!(mode(&file), 0o600, "{start}: {}", file.display());
        }
        assert_eq!(mode(&kafka) & 0o066, 0, "{start}: nobody else may list {}", kafka.display());
        running.signal(Signal::TERM);
        running.child.wait().unwrap();
        // As an older version left them: the next start tightens them.
        private.iter().chain([&kafka]).for_each(|folder| allow_all(folder));
    }
}

#[test]
fn a_jar_with_a_changed_byte_is_not_run() {
    let devstack = |cache: Option<&Path>, action: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_devstack"));
        command.envs(cache.map(|cache| ("TRIGGERS_CACHE_DIR", cache)));
        command.arg(action).output().unwrap()
    };
    let fetched = devstack(None, "fetch");
    let folder = String::from_utf8(fetched.stdout).unwrap();
    let folder = Path::new(folder.trim());
    let cache = tempfile::tempdir().unwrap();
    let copy = cache.path().join(folder.file_name().unwrap());
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let unchanged = devstack(Some(cache.path()), "fetch");
    assert_eq!(String::from_utf8(unchanged.stdout).unwrap().trim(), copy.display().to_string());

    let jar = fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().path());
    let jar =
        jar.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("kafka_2.13")).unwrap();
    let mut bytes = fs::read(&jar).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&jar, bytes).unwrap();
    for action in ["fetch", "run"] {
        let refused = devstack(Some(cache.path()), action);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{action} must refuse the jar");
        let name = jar.file_name().unwrap().to_string_lossy();
        assert!(error.contains(&*name) && error.contains("SHA-256"), "{action}: {error}");
    }
}
