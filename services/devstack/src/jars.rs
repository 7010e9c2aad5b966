//! The broker's jars: Maven fetches them once from the embedded manifest into a cache that all runs share. Each start
//! compares them with the embedded checksums before it runs them.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::child::{self, Launch};
use crate::stack::blocking;
use crate::{Error, files, tools};

/// The Maven project with the dependencies to fetch.
const MANIFEST: &str = include_str!("../../../deploy/kafka/pom.xml");
/// SHA-256 and name of each jar, sorted by name, as `sha256sum` prints them.
const CHECKSUMS: &str = include_str!("../../../deploy/kafka/jars.sha256");
/// How long Maven may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// How often a lock held by another process is tried.
const POLL: Duration = Duration::from_millis(200);

/// The jars, all of them verified.
pub(crate) struct Jars {
    pub(crate) folder: PathBuf,
    /// File names, sorted: a class-data archive is only valid for the same class path.
    pub(crate) names: Vec<String>,
}

/// The Kafka release of the manifest.
pub(crate) fn kafka_version() -> &'static str {
    property("kafka.version")
}

fn property(name: &str) -> &'static str {
    let value = MANIFEST.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once('<'));
    value.map_or("unknown", |(value, _)| value)
}

/// The folder that all runs of this user share.
pub(crate) fn cache_folder() -> Result<PathBuf, Error> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("TRIGGERS_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").map(|home| home.join("triggers")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/triggers")))
        .ok_or_else(|| Error::Fetch("no cache folder; set TRIGGERS_CACHE_DIR or HOME".into()))
}

/// The jars; fetches them if they are missing. Of several processes, one fetches and the others wait.
pub(crate) async fn ensure() -> Result<Jars, Error> {
    let cache = cache_folder()?;
    // Another list of jars has another folder, so that no version replaces the jars that another one runs.
    let folder = cache.join(format!("kafka-{}-{}", kafka_version(), &hex(&Sha256::digest(CHECKSUMS))[..12]));
    if let Some(jars) = verified(&folder).await? {
        return Ok(jars);
    }
    files::create_dir(&cache)?;
    let _lock = lock(&cache.join("fetch.lock")).await?;
    if let Some(jars) = verified(&folder).await? {
        return Ok(jars);
    }
    fetch(&cache, &folder).await?;
    verified(&folder).await?.ok_or_else(|| Error::Fetch(format!("{} is incomplete after the fetch", folder.display())))
}

async fn lock(path: &Path) -> Result<File, Error> {
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let file = open.map_err(Error::io(format!("open {}", path.display())))?;
    let start = Instant::now();
    let mut logged = false;
    while file.try_lock().is_err() {
        if !logged {
            tracing::info!("Another process is fetching the jars of Kafka; waiting for it");
            logged = true;
        }
        if start.elapsed() > FETCH_DEADLINE {
            return Err(Error::Fetch(format!("another process has held {} for too long", path.display())));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(file)
}

async fn verified(folder: &Path) -> Result<Option<Jars>, Error> {
    let folder = folder.to_path_buf();
    blocking(move || verify(&folder, CHECKSUMS)).await
}

/// The jars of the list, if `folder` has all of them. A cache cleaner may have removed some. Blocking: it reads all of
/// them, 0.1 s.
///
/// # Errors
/// Names a jar whose content is another one: it is never run.
fn verify(folder: &Path, checksums: &str) -> Result<Option<Jars>, Error> {
    let mut names = Vec::new();
    for (checksum, name) in checksums.lines().filter_map(|line| line.split_once("  ")) {
        let path = folder.join(name);
        match digest(&path) {
            Ok(found) if found == checksum => names.push(name.to_owned()),
            Ok(_) => return Err(Error::WrongJar { name: name.to_owned(), folder: folder.to_path_buf() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("read {}", path.display()))(error)),
        }
    }
    Ok((!names.is_empty()).then(|| Jars { folder: folder.to_path_buf(), names }))
}

fn digest(path: &Path) -> io::Result<String> {
    // The largest jar has 9 MB.
    Ok(hex(&Sha256::digest(fs::read(path)?)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn fetch(cache: &Path, folder: &Path) -> Result<(), Error> {
    let (maven, setpriv) = (tools::maven()?, tools::setpriv()?);
    let started = Instant::now();
    tracing::info!(cache = %cache.display(), "Fetching Apache Kafka {} (44 MB of jars, once)", kafka_version());
    let partial = cache.join(format!("fetching-{}", uuid::Uuid::new_v4().simple()));
    files::create_dir(&partial)?;
    let fetched = match run_maven(maven, &setpriv, &partial).await {
        Ok(()) => match verified(&partial).await {
            Ok(Some(jars)) => publish(&jars, folder),
            Ok(None) => Err(Error::Fetch("Maven did not fetch all jars of deploy/kafka/jars.sha256".into())),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    if fetched.is_err() {
        files::remove_dir(&partial)?;
    }
    fetched?;
    tracing::info!(seconds = started.elapsed().as_secs(), "Fetched Apache Kafka {}", kafka_version());
    Ok(())
}

async fn run_maven(maven: PathBuf, setpriv: &Path, partial: &Path) -> Result<(), Error> {
    let manifest = partial.join("pom.xml");
    files::write(&manifest, MANIFEST, 0o644)?;
    let log = partial.join("maven.log");
    let mut output = OsString::from("-DoutputDirectory=");
    output.push(partial);
    // `-C`: a download with a wrong checksum is an error, not a warning.
    let mut args: Vec<OsString> = ["-B", "-q", "-C", "-f"].map(OsString::from).into();
    args.push(manifest.into());
    args.extend(["dependency:copy-dependencies", "-DincludeScope=runtime"].map(OsString::from));
    args.push(output);
    let environment = child::inherited(&["MAVEN_", "M2_"]);
    let launch = Launch {
        setpriv,
        program: maven,
        args,
        folder: partial,
        user: None,
        environment: Some(&environment),
        death_signal: "KILL",
        output: &log,
    };
    let child = launch.spawn()?;
    let Ok(status) = tokio::time::timeout(FETCH_DEADLINE, child.wait()).await else {
        child.signal_family(crate::Signal::KILL);
        return Err(Error::Fetch(format!("Maven did not finish within {} s", FETCH_DEADLINE.as_secs())));
    };
    if status.is_some_and(|status| status.success()) {
        return Ok(());
    }
    Err(Error::Fetch(format!("Maven failed; end of its log: {}", files::tail(&[&log]))))
}

/// Renames the folder of the verified jars, which publishes all of them atomically.
fn publish(jars: &Jars, folder: &Path) -> Result<(), Error> {
    for name in &jars.names {
        files::set_mode(&jars.folder.join(name), 0o644)?;
    }
    files::set_mode(&jars.folder, 0o755)?;
    files::remove_dir(folder)?;
    fs::rename(&jars.folder, folder).map_err(Error::io(format!("move the jars to {}", folder.display())))
}

/// Makes the jars visible as `target` to a server that may not be able to reach the cache.
///
/// A link where `reachable`; otherwise hard links, or copies onto another file system.
pub(crate) fn provide(jars: &Jars, target: &Path, reachable: bool) -> Result<(), Error> {
    let failed = || Error::io(format!("put the jars into {}", target.display()));
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() => files::remove_dir(target)?,
        Ok(_) => fs::remove_file(target).map_err(failed())?,
        Err(_) => {}
    }
    if reachable {
        return std::os::unix::fs::symlink(&jars.folder, target).map_err(failed());
    }
    files::create_dir(target)?;
    files::set_mode(target, 0o755)?;
    for name in &jars.names {
        let (from, to) = (jars.folder.join(name), target.join(name));
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).map_err(failed())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_are_of_the_manifests_versions() {
        let names: Vec<&str> = CHECKSUMS.lines().map(|line| line.split_once("  ").unwrap().1).collect();
        for (jar, version) in [("kafka_2.13", "kafka.version"), ("log4j-core", "log4j.version")] {
            let name = format!("{jar}-{}.jar", property(version));
            assert!(names.contains(&name.as_str()), "jars.sha256 lacks {name}: write it again, as pom.xml says");
        }
        assert!(names.is_sorted(), "the class path is sorted");
    }

    #[test]
    fn a_jar_with_a_changed_byte_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let list: String = ["a.jar", "b.jar"]
            .map(|name| {
                fs::write(path(name), name.repeat(1000)).unwrap();
                format!("{}  {name}\n", digest(&path(name)).unwrap())
            })
            .concat();
        assert_eq!(verify(folder.path(), &list).unwrap().unwrap().names, ["a.jar", "b.jar"]);
        let mut bytes = fs::read(path("b.jar")).unwrap();
        bytes[2500] ^= 1;
        fs::write(path("b.jar"), bytes).unwrap();
        let error = verify(folder.path(), &list).err().unwrap().to_string();
        assert!(error.contains("b.jar") && error.contains("delete the folder"), "{error}");
        fs::remove_file(path("b.jar")).unwrap();
        assert!(verify(folder.path(), &list).unwrap().is_none(), "a missing jar is fetched again");
    }
}
