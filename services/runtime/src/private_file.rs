//! Files with secrets: only their owner can read them, and another process sees either no file or a complete one, also
//! after a power cut.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Creates the file with `content` unless it exists, and returns what the file then holds. Of several processes that do
/// so at once, one creates it, and all get its content.
///
/// # Errors
/// When it can be neither created nor read.
pub fn create_or_read(path: &Path, content: &[u8]) -> io::Result<Vec<u8>> {
    let draft = write_draft(path, content)?;
    // A link, unlike a rename, does not replace a file that another process has created meanwhile.
    let linked = fs::hard_link(&draft, path);
    let removed = fs::remove_file(&draft);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => removed?,
    }
    sync_folder(path)?;
    fs::read(path)
}

/// Writes the file; an existing one is replaced.
///
/// # Errors
/// When it cannot be written. An existing file is then unchanged.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = write_draft(path, content)?;
    fs::rename(&draft, path).inspect_err(|_| drop(fs::remove_file(&draft)))?;
    sync_folder(path)
}

/// A new file in the same folder, on the disk. Its random name lets several processes write at once.
fn write_draft(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{:016x}.new", rand::random::<u64>()));
    let draft = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(&draft)))?;
    Ok(draft)
}

/// The name of a new file is on the disk only after its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn of_many_that_create_a_file_at_once_all_get_one_content() {
        const STARTS: usize = 8;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let together = Barrier::new(STARTS);
        let start = |number: usize| {
            together.wait();
            create_or_read(&path, format!("content {number}").repeat(1000).as_bytes()).unwrap()
        };
        let contents: Vec<Vec<u8>> = thread::scope(|scope| {
            let starts: Vec<_> = (0..STARTS).map(|number| scope.spawn(move || start(number))).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(contents.iter().all(|content| *content == contents[0]), "all of them have the file's content");
        assert_eq!(fs::read(&path).unwrap(), contents[0]);
        assert_eq!(names(folder.path()), ["secret"], "no draft is left");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn replacing_leaves_a_private_file_and_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["secret"]);
    }
}
