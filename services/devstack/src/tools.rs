//! The programs of the system that a stack needs (Java, Maven, PostgreSQL, setpriv) and the user the servers run as.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// Kafka 4 refuses an older Java.
const OLDEST_JAVA: u32 = 17;
/// The dispatcher and the view use SQL of this release.
const OLDEST_POSTGRES: u32 = 15;

/// One tool of the system and whether it is of use.
#[derive(Debug)]
pub struct Check {
    /// What it is called.
    pub tool: &'static str,
    /// Where it was found and in which version, or what is missing.
    pub found: Result<String, Error>,
}

/// Looks for everything that a stack needs, for `triggers doctor`. Runs each tool once; takes about a second.
#[must_use]
pub fn check_all() -> Vec<Check> {
    let path = |found: Result<PathBuf, Error>| found.map(|path| path.display().to_string());
    let java = java().map(|java| format!("{} ({})", java.path.display(), java.version));
    let postgres = postgres(None).map(|found| format!("{} (major version {})", found.folder.display(), found.major));
    vec![
        Check { tool: "Java", found: java },
        Check { tool: "Maven", found: path(maven()) },
        Check { tool: "PostgreSQL server", found: postgres },
        Check { tool: "setpriv", found: path(setpriv()) },
    ]
}

/// A Java runtime that is new enough.
#[derive(Clone)]
pub(crate) struct Java {
    pub(crate) path: PathBuf,
    /// As Java prints it, such as `17.0.15`.
    pub(crate) version: String,
}

/// `$JAVA_HOME/bin/java`, else `java` in the search path.
pub(crate) fn java() -> Result<Java, Error> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let path = home
        .filter(|path| is_program(path))
        .or_else(|| in_path("java"))
        .ok_or(Error::MissingTool { tool: "Java 17 or newer (`java`)", package: "default-jre-headless" })?;
    let output = Command::new(&path).arg("-version").output();
    let output = output.map_err(Error::io(format!("run {}", path.display())))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = text.split('"').nth(1).unwrap_or_default().to_owned();
    match leading_number(&version) {
        Some(major) if major >= OLDEST_JAVA => Ok(Java { path, version }),
        _ => Err(Error::UnusableTool(format!(
            "Java 17 or newer is needed, and {} says `{}`; on Debian or Ubuntu it is in the package `default-jre-headless`",
            path.display(),
            text.lines().next().unwrap_or("nothing"),
        ))),
    }
}

pub(crate) fn maven() -> Result<PathBuf, Error> {
    in_path("mvn")
        .ok_or(Error::MissingTool { tool: "Maven (`mvn`), which fetches the jars of Kafka,", package: "maven" })
}

pub(crate) fn setpriv() -> Result<PathBuf, Error> {
    in_path("setpriv").ok_or(Error::MissingTool { tool: "`setpriv`", package: "util-linux" })
}

pub(crate) struct PostgresBinaries {
    /// Holds `postgres` and `initdb`.
    pub(crate) folder: PathBuf,
    pub(crate) major: u32,
}

/// The installation of major version `wanted`; without one, that of the search path, else the newest.
pub(crate) fn postgres(wanted: Option<u32>) -> Result<PostgresBinaries, Error> {
    let mut folders: Vec<PathBuf> = Vec::new();
    // Debian's wrapper links lead to the folder that holds all of them.
    if let Some(real) = in_path("postgres").and_then(|found| found.canonicalize().ok()) {
        folders.extend(real.parent().map(Path::to_path_buf));
    }
    let mut installed = installed_postgres();
    installed.sort_by_key(|folder| std::cmp::Reverse(leading_number(&folder.to_string_lossy())));
    folders.extend(installed);
    let mut found: Vec<PostgresBinaries> = Vec::new();
    for folder in folders {
        if is_program(&folder.join("postgres")) && is_program(&folder.join("initdb")) {
            let major = postgres_major(&folder)?;
            found.push(PostgresBinaries { folder, major });
        }
    }
    found.retain(|binaries| binaries.major >= OLDEST_POSTGRES);
    let fits = |binaries: &PostgresBinaries| wanted.is_none_or(|major| binaries.major == major);
    let place = found.iter().position(fits).or(if found.is_empty() { None } else { Some(0) });
    place.map(|place| found.swap_remove(place)).ok_or(Error::MissingTool {
        tool: "A PostgreSQL server of version 15 or newer (`postgres` and `initdb`)",
        package: "postgresql",
    })
}

/// The `bin` folders where distributions put PostgreSQL, which is often not in the search path.
fn installed_postgres() -> Vec<PathBuf> {
    let versions = |parent: &str| fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path());
    let debian = versions("/usr/lib/postgresql").map(|path| path.join("bin"));
    let fedora = versions("/usr").filter(|path| path.to_string_lossy().starts_with("/usr/pgsql-"));
    debian.chain(fedora.map(|path| path.join("bin"))).chain([PathBuf::from("/usr/local/pgsql/bin")]).collect()
}

fn postgres_major(folder: &Path) -> Result<u32, Error> {
    let program = folder.join("postgres");
    let output = Command::new(&program).arg("--version").output();
    let output = output.map_err(Error::io(format!("run {}", program.display())))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    leading_number(&text)
        .ok_or_else(|| Error::UnusableTool(format!("{} --version says `{}`", program.display(), text.trim())))
}

/// The first run of digits in a text.
fn leading_number(text: &str) -> Option<u32> {
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut usual: Vec<PathBuf> = std::env::split_paths(&path).collect();
    usual.extend(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    usual.into_iter().map(|folder| folder.join(name)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// An account of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whom the servers run as: `None` is ourselves; root becomes `postgres`, else `nobody`, for PostgreSQL refuses root
/// and Kafka has no need of it.
pub(crate) fn server_user() -> Result<Option<User>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd").map_err(Error::io("read /etc/passwd"))?;
    let find = |name| accounts.lines().find_map(|line| parse_account(line).filter(|user| user.name == name));
    let user = find("postgres").or_else(|| find("nobody"));
    user.map(Some).ok_or_else(|| {
        Error::UnusableTool(
            "the servers cannot run as root, and there is neither a user `postgres` nor `nobody`".into(),
        )
    })
}

fn parse_account(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User { name, uid, gid })
}

/// The first folder on the way to `path` (links followed) that `user` may not pass or read, if any.
///
/// Looks at the mode bits only: an access list may forbid more, and the server's own words then tell.
pub(crate) fn barrier(path: &Path, user: Option<&User>) -> Option<PathBuf> {
    let user = user?;
    let real = path.canonicalize().ok()?;
    let closed = |folder: &&Path| {
        fs::metadata(folder).is_ok_and(|meta| {
            let shift = if meta.uid() == user.uid {
                6
            } else if meta.gid() == user.gid {
                3
            } else {
                0
            };
            (meta.mode() >> shift) & 0o1 == 0
        })
    };
    real.ancestors().skip(1).find(closed).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_tools_print_them() {
        assert_eq!(leading_number("17.0.15"), Some(17));
        assert_eq!(leading_number("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(leading_number("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(leading_number("none"), None);
    }

    #[test]
    fn an_account_is_read_from_its_line() {
        let user = parse_account("postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash");
        assert_eq!(user, Some(User { name: "postgres".into(), uid: 101, gid: 104 }));
        assert_eq!(parse_account("broken"), None);
    }
}
