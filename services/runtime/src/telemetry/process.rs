//! Metrics of the process from `/proc`, read when metrics are rendered.

use std::fmt::Write;
use std::fs;

/// Linux reports CPU times in hundredths of a second on every platform.
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends resident memory, CPU time and open files under the names that Prometheus' own clients use. A value that
/// cannot be read is omitted.
pub(super) fn render_into(text: &mut String) {
    let resident = fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_bytes(&status));
    let cpu = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat));
    let files = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    append(text, "process_resident_memory_bytes", "gauge", "Resident memory.", resident.map(|bytes| bytes as f64));
    append(text, "process_cpu_seconds_total", "counter", "User and system CPU time.", cpu);
    append(text, "process_open_fds", "gauge", "Open file descriptors.", files);
}

fn append(text: &mut String, name: &str, kind: &str, help: &str, value: Option<f64>) {
    let Some(value) = value else { return };
    // Writing to a string does not fail.
    let _written = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The program's name, in parentheses, may contain blanks and parentheses; fields are counted after it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_cpu_time_are_parsed() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    1234 kB\nVmData:\t9 kB\n"), Some(1234 * 1024));
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
    }

    #[test]
    fn all_metrics_of_this_process_are_rendered() {
        let mut text = String::new();
        render_into(&mut text);
        for name in ["process_resident_memory_bytes ", "process_cpu_seconds_total ", "process_open_fds "] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{text}");
        }
    }
}
