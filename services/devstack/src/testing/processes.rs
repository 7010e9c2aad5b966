//! The descendants of a process, from `/proc`, so that a test can check that they have exited. Each is an id and a
//! name, because the kernel reuses ids.

use std::fs;
use std::time::Duration;

use super::eventually;

/// How long processes may take to exit after their parent.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// All descendants of `root`.
///
/// # Panics
/// Without `/proc`.
#[must_use]
pub fn descendants(root: u32) -> Vec<(u32, String)> {
    let entries = match fs::read_dir("/proc") {
        Ok(entries) => entries.flatten(),
        Err(error) => panic!("cannot read /proc: {error}"),
    };
    let all: Vec<(u32, Status)> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_string_lossy().parse().ok()?;
            Some((pid, status(pid)?))
        })
        .collect();
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(above) = parents.pop() {
        for (pid, status) in all.iter().filter(|(_, status)| status.parent == above) {
            found.push((*pid, status.name.clone()));
            parents.push(*pid);
        }
    }
    found
}

/// Name of the process if it runs. A zombie does not run.
#[must_use]
pub fn running(pid: u32) -> Option<String> {
    status(pid).filter(|status| status.state != "Z").map(|status| status.name)
}

/// Whether any of the processes still runs.
#[must_use]
pub fn any_left(processes: &[(u32, String)]) -> bool {
    processes.iter().any(|(pid, name)| running(*pid).as_ref() == Some(name))
}

/// Waits until none of the processes runs.
///
/// # Panics
/// When one still runs after 10 s.
pub async fn gone(processes: &[(u32, String)]) {
    eventually(EXIT_TIMEOUT, "no process is left", || async { (!any_left(processes)).then_some(()) }).await;
}

struct Status {
    name: String,
    /// One letter.
    state: String,
    parent: u32,
}

fn status(pid: u32) -> Option<Status> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain spaces and parentheses.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = rest.split_whitespace();
    Some(Status { name, state: fields.next()?.to_owned(), parent: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn a_child_is_a_descendant_until_it_exits_or_is_a_zombie() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let sleeper = (child.id(), "sleep".to_owned());
        assert!(descendants(std::process::id()).contains(&sleeper));
        let (of_another_name, sleeper) = ([(child.id(), "slee".to_owned())], [sleeper]);
        assert!(any_left(&sleeper) && !any_left(&of_another_name));
        child.kill().unwrap();
        gone(&sleeper).await;
        child.wait().unwrap();
        assert_eq!(running(child.id()), None);
    }
}
