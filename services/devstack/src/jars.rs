//! The broker's jars: Maven fetches them once from the embedded manifest into a cache that all runs share.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::child::Launch;
use crate::{Error, files, tools};

/// The Maven project with the dependencies to fetch.
const MANIFEST: &str = include_str!("../../../deploy/kafka/pom.xml");
/// How long Maven may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// How often a lock held by another process is tried.
const POLL: Duration = Duration::from_millis(200);

/// A complete set of jars.
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
    let folder = cache.join(format!("kafka-{}-log4j-{}", kafka_version(), property("log4j.version")));
    if let Some(jars) = complete(&folder) {
        return Ok(jars);
    }
    files::create_dir(&cache)?;
    let _lock = lock(&cache.join("fetch.lock")).await?;
    if let Some(jars) = complete(&folder) {
        return Ok(jars);
    }
    fetch(&cache, &folder).await?;
    complete(&folder).ok_or_else(|| Error::Fetch(format!("{} is incomplete after the fetch", folder.display())))
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

/// The jars, if all files still exist with their size. A cache cleaner may have removed some.
fn complete(folder: &Path) -> Option<Jars> {
    let list = fs::read_to_string(folder.join("jars.list")).ok()?;
    let mut names = Vec::new();
    for line in list.lines() {
        let (size, name) = line.split_once(' ')?;
        let meta = fs::metadata(folder.join(name)).ok()?;
        if meta.len() != size.parse::<u64>().ok()? {
            return None;
        }
        names.push(name.to_owned());
    }
    if names.is_empty() { None } else { Some(Jars { folder: folder.to_path_buf(), names }) }
}

async fn fetch(cache: &Path, folder: &Path) -> Result<(), Error> {
    let (maven, setpriv) = (tools::maven()?, tools::setpriv()?);
    let started = Instant::now();
    tracing::info!(cache = %cache.display(), "Fetching Apache Kafka {} (44 MB of jars, once)", kafka_version());
    let partial = cache.join(format!("fetching-{}", uuid::Uuid::new_v4().simple()));
    files::create_dir(&partial)?;
    let fetched = run_maven(maven, &setpriv, &partial).await.and_then(|()| publish(&partial, folder));
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
    let mut args: Vec<OsString> = ["-B", "-q", "-f"].map(OsString::from).into();
    args.push(manifest.into());
    args.extend(["dependency:copy-dependencies", "-DincludeScope=runtime"].map(OsString::from));
    args.push(output);
    let launch = Launch {
        setpriv,
        program: maven,
        args,
        folder: partial,
        user: None,
        environment: None,
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

/// Writes the list of jars and renames the folder, which publishes all of them atomically.
fn publish(partial: &Path, folder: &Path) -> Result<(), Error> {
    let read = || Error::io(format!("read {}", partial.display()));
    let mut lines = Vec::new();
    for entry in fs::read_dir(partial).map_err(read())? {
        let entry = entry.map_err(read())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".jar") {
            files::set_mode(&entry.path(), 0o644)?;
            lines.push((name, entry.metadata().map_err(read())?.len()));
        }
    }
    lines.sort();
    let list: String = lines.iter().map(|(name, size)| format!("{size} {name}\n")).collect();
    files::write(&partial.join("jars.list"), &list, 0o644)?;
    files::set_mode(partial, 0o755)?;
    files::remove_dir(folder)?;
    fs::rename(partial, folder).map_err(Error::io(format!("move the jars to {}", folder.display())))
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
    fn the_manifest_has_versions() {
        assert!(kafka_version().starts_with("4."), "{}", kafka_version());
        assert_ne!(property("log4j.version"), "unknown");
    }
}
