//! CPU and memory of each component, from `/proc`: the process that listens on a port, and its descendants.
//!
//! Linux only. A component whose process is not found or not readable is missing in the report.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use serde::Serialize;

/// `/proc/PID/stat` counts in hundredths of a second on all common Linux systems.
const TICKS_PER_SECOND: f64 = 100.0;

/// A component: a name and its root process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Component {
    /// Its name in the report.
    pub name: String,
    /// The process. Its descendants belong to it unless they are components themselves.
    pub pid: u32,
}

impl Component {
    pub(crate) fn new(name: &str, pid: u32) -> Self {
        Self { name: name.to_owned(), pid }
    }
}

/// The CPU time that components use from its start on.
pub(crate) struct CpuMeter {
    components: Vec<Component>,
    before: BTreeMap<String, Usage>,
}

impl CpuMeter {
    pub(crate) fn start(components: &[Component]) -> Self {
        Self { components: components.to_vec(), before: usage(components) }
    }

    /// Microseconds of CPU by component, for each of `events`.
    pub(crate) fn micros_per_event(&self, events: u64) -> BTreeMap<String, f64> {
        let per_event = |(name, now): (String, Usage)| {
            let before = self.before.get(&name).map_or(0.0, |before| before.cpu_seconds);
            let micros = (now.cpu_seconds - before).max(0.0) * 1_000_000.0 / events.max(1) as f64;
            (name, micros)
        };
        usage(&self.components).into_iter().map(per_event).collect()
    }
}

/// Resources of a component.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Usage {
    /// CPU time since the start of its processes, in seconds.
    pub cpu_seconds: f64,
    /// Current memory in MiB: private pages of all its processes, and shared pages once.
    pub memory_mib: f64,
}

/// A process in its `stat` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// User and system time of itself and of its finished children.
    ticks: u64,
}

/// The process that listens on `port` of this machine.
pub(crate) fn listener(port: u16) -> Option<u32> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        sockets.extend(listening(&fs::read_to_string(table).unwrap_or_default(), port));
    }
    let targets: Vec<String> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    pids().into_iter().find(|pid| {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        open.flatten().any(|file| {
            fs::read_link(file.path())
                .is_ok_and(|link| targets.iter().any(|target| link.as_os_str() == target.as_str()))
        })
    })
}

/// Socket inodes that listen on `port`, in the text of `/proc/net/tcp` or `tcp6`.
fn listening(table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            // Local address, state (0A: listening), inode.
            let (address, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            (address.ends_with(&suffix) && *state == "0A").then(|| inode.parse().ok()).flatten()
        })
        .collect()
}

/// Current resources by component.
pub(crate) fn usage(components: &[Component]) -> BTreeMap<String, Usage> {
    let processes: HashMap<u32, Process> = pids()
        .into_iter()
        .filter_map(|pid| Some((pid, parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let mut usage = BTreeMap::new();
    for (component, members) in assign(components, &processes) {
        let ticks: u64 = members.iter().filter_map(|pid| processes.get(pid)).map(|process| process.ticks).sum();
        let memory: Vec<(u64, u64)> = members
            .iter()
            .filter_map(|pid| Some(parse_memory(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)))
            .collect();
        let private: u64 = memory.iter().map(|(private, _)| private).sum();
        let shared: u64 = memory.iter().map(|(_, shared)| *shared).max().unwrap_or(0);
        usage.insert(
            component,
            Usage { cpu_seconds: ticks as f64 / TICKS_PER_SECOND, memory_mib: (private + shared) as f64 / 1024.0 },
        );
    }
    usage
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Assigns each process to the nearest component among itself and its ancestors.
fn assign(components: &[Component], processes: &HashMap<u32, Process>) -> BTreeMap<String, Vec<u32>> {
    let roots: HashMap<u32, &str> =
        components.iter().map(|component| (component.pid, component.name.as_str())).collect();
    let mut members: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for pid in processes.keys() {
        let mut at = *pid;
        // Bounded: the table changes while it is read, and a reused pid could make a cycle.
        for _ in 0..64 {
            if let Some(name) = roots.get(&at) {
                members.entry((*name).to_owned()).or_default().push(*pid);
                break;
            }
            match processes.get(&at) {
                Some(process) if process.parent != 0 => at = process.parent,
                _ => break,
            }
        }
    }
    members
}

/// Parent and CPU time in the text of `/proc/PID/stat`.
fn parse_stat(text: &str) -> Option<Process> {
    // The name in parentheses may contain parentheses and blanks.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some(Process { parent: u32::try_from(number(1)?).ok()?, ticks })
}

/// Private and shared resident KiB in the text of `/proc/PID/status`.
fn parse_memory(text: &str) -> (u64, u64) {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    (kib("RssAnon"), kib("RssFile") + kib("RssShmem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_its_nearest_component() {
        let process = |parent| Process { parent, ticks: 1 };
        // 10 started 20, which started 30 and 31; 40 belongs to no component.
        let processes = HashMap::from([
            (10, process(1)),
            (20, process(10)),
            (30, process(20)),
            (31, process(20)),
            (40, process(1)),
        ]);
        let component = |name: &str, pid| Component { name: name.to_owned(), pid };
        let mut members = assign(&[component("triggers", 10), component("postgres", 20)], &processes);
        members.values_mut().for_each(|pids| pids.sort_unstable());
        assert_eq!(
            members,
            BTreeMap::from([("triggers".to_owned(), vec![10]), ("postgres".to_owned(), vec![20, 30, 31])])
        );
    }

    #[test]
    fn a_stat_line_is_parsed_with_any_process_name() {
        let line = "42 (a) b (c)) S 7 42 42 0 -1 4194304 1 2 3 4 100 20 3 4 20 0 1 0 5";
        assert_eq!(parse_stat(line), Some(Process { parent: 7, ticks: 127 }));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn a_listening_socket_is_found_by_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0\n\
        1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0 0 10 0\n\
        2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0 0 10 0\n";
        assert_eq!(listening(table, 8080), vec![111]);
    }

    #[test]
    fn this_process_is_found_by_its_port() {
        let listener_socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pid = listener(listener_socket.local_addr().unwrap().port()).unwrap();
        assert_eq!(pid, std::process::id());
        let usage = usage(&[Component { name: "me".to_owned(), pid }]);
        assert!(usage["me"].memory_mib > 0.5, "{usage:?}");
    }
}
