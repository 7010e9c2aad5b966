//! What limited a run, from its figures. Pure.
//!
//! The figures show which resource was used up, not why. CPU is that of the measured components: a machine that also
//! does something else is busier than they are.

use std::collections::BTreeSet;

use crate::figures::Figures;
use crate::recorder::RequestOutcome;
use crate::session::Row;

/// The component that sends the load.
const GENERATOR: &str = "generator";
/// Cores are busy from this share on: the scheduler and the kernel need the rest.
const BUSY_SHARE: f64 = 0.9;
/// The generator is late if the p99 of its send delay is more than this, and more than half of the latency's p99.
const LATE_MS: f64 = 1.0;
/// More errors than this are a limit.
const MAX_ERROR_PERCENT: f64 = 1.0;
/// A smaller share of the rate than this means that the load was not carried.
const CARRIED_SHARE: f64 = 0.97;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The figures do not suffice.
    Unknown,
    /// All cores of the machine are busy.
    Cpu,
    /// The generator sent too late.
    Generator,
    /// Requests were refused or failed.
    Errors,
    /// Each connection waited for its reply.
    Connections,
    /// A consumer group fell behind.
    Consumer,
    /// Cores are idle although more work waits.
    Waiting,
    /// The load was carried.
    Nothing,
}

/// A limit and the figures that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub limit: Limit,
    /// One sentence without a full stop.
    pub text: String,
}

impl Finding {
    fn new(limit: Limit, text: String) -> Self {
        Self { limit, text }
    }
}

/// What limited the run on a machine with `cores` cores: the main finding first, at least one.
pub(crate) fn find(figures: &Figures, rows: &[Row], cores: usize) -> Vec<Finding> {
    if figures.requests == 0 {
        return vec![Finding::new(Limit::Unknown, "unknown: no request was measured".to_owned())];
    }
    let rows: Vec<&Row> = rows.iter().filter(|row| row.measured).collect();
    let cpu = Cpu::of(figures, cores);
    let late = late_generator(figures, &rows);
    let mut findings = Vec::new();
    if cpu.busy {
        findings.push(Finding::new(Limit::Cpu, format!("all {cores} cores are busy ({})", cpu.text)));
    }
    // On busy cores everything is late, the generator too.
    let is_late = late.is_some();
    findings.extend(late);
    if figures.error_percent > MAX_ERROR_PERCENT {
        findings.push(errors(figures));
    }
    findings.extend(busy_connections(figures, &rows));
    findings.extend(growing_lag(figures, &rows));
    // Otherwise work waits for the cores, or for the generator.
    if !cpu.busy && !is_late {
        match work_that_waits(figures, &rows) {
            Some(waits) => findings.push(cpu.waiting(&waits)),
            None if findings.is_empty() => findings.push(cpu.carried()),
            None => {}
        }
    }
    findings
}

struct Cpu {
    cores: f64,
    /// Cores used by all components.
    used: f64,
    busy: bool,
    /// Whether more was measured than the generator.
    system_measured: bool,
    /// The components, the greatest first.
    text: String,
}

impl Cpu {
    fn of(figures: &Figures, cores: usize) -> Self {
        let mut components: Vec<(&str, f64)> =
            figures.components.iter().map(|(name, used)| (name.as_str(), used.cpu_cores)).collect();
        components.sort_by(|left, right| right.1.total_cmp(&left.1));
        let used: f64 = components.iter().map(|(_, used)| used).sum();
        let list: Vec<String> = components.iter().map(|(name, used)| format!("{name} {used:.2}")).collect();
        let cores = cores as f64;
        Self {
            cores,
            used,
            busy: cores > 0.0 && used >= BUSY_SHARE * cores,
            system_measured: components.iter().any(|(name, _)| *name != GENERATOR),
            text: format!("{used:.2} of {cores}: {}", list.join(", ")),
        }
    }

    fn waiting(&self, waits: &str) -> Finding {
        if self.system_measured {
            let text = format!(
                "cores are idle ({}) and {waits}: a queue or a lock limits, not the CPU, unless other programs used it",
                self.text
            );
            Finding::new(Limit::Waiting, text)
        } else {
            Finding::new(Limit::Unknown, format!("{waits}, and the system's CPU was not measured"))
        }
    }

    fn carried(&self) -> Finding {
        let text = if self.system_measured {
            format!("nothing: the load was carried with {:.2} of {} cores idle", self.cores - self.used, self.cores)
        } else {
            "nothing: the load was carried; the system's CPU was not measured".to_owned()
        };
        Finding::new(Limit::Nothing, text)
    }
}

/// The generator's share of the latency. Not the generator's, if requests waited for a connection.
fn late_generator(figures: &Figures, rows: &[&Row]) -> Option<Finding> {
    let threads = figures.load.client_threads as f64;
    let own = figures.components.get(GENERATOR).map_or(0.0, |used| used.cpu_cores);
    if threads > 0.0 && own >= BUSY_SHARE * threads {
        let text =
            format!("the generator's {threads} client threads are busy ({own:.2} cores): it may send too slowly");
        return Some(Finding::new(Limit::Generator, text));
    }
    let (delay, latency) = (figures.send_delay.p99_ms, figures.latency.p99_ms);
    let is_late = is_open(figures) && delay > LATE_MS && delay > latency / 2.0;
    (is_late && seconds_with_all_connections_busy(figures, rows) * 20 <= rows.len()).then(|| {
        let text = format!(
            "the generator was late (send delay p99 {delay:.2} ms, latency p99 {latency:.2} ms): its figures are not \
             the system's"
        );
        Finding::new(Limit::Generator, text)
    })
}

fn errors(figures: &Figures) -> Finding {
    let mut kinds: Vec<(&String, &u64)> = figures.outcomes.iter().filter(|(name, _)| *name != &accepted()).collect();
    kinds.sort_by(|left, right| right.1.cmp(left.1));
    let kinds: Vec<String> = kinds.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let text = format!("{:.2} % of the requests failed ({})", figures.error_percent, kinds.join(", "));
    Finding::new(Limit::Errors, text)
}

fn accepted() -> String {
    RequestOutcome::Accepted.name()
}

fn busy_connections(figures: &Figures, rows: &[&Row]) -> Option<Finding> {
    let busy = seconds_with_all_connections_busy(figures, rows);
    (is_open(figures) && busy * 2 > rows.len()).then(|| {
        let text = format!(
            "all {} connections were busy in {busy} of {} seconds: the replies take too long for this rate, or there \
             are too few connections",
            figures.load.connections,
            rows.len()
        );
        Finding::new(Limit::Connections, text)
    })
}

fn seconds_with_all_connections_busy(figures: &Figures, rows: &[&Row]) -> usize {
    rows.iter().filter(|row| row.in_flight >= figures.load.connections as u64 && row.backlog > 0).count()
}

/// Consumer groups whose lag grew by more than the records of a second.
fn growing_lag(figures: &Figures, rows: &[&Row]) -> Option<Finding> {
    let groups: BTreeSet<&String> = rows.iter().flat_map(|row| row.lag_records.keys()).collect();
    let grown: Vec<String> = groups
        .into_iter()
        .filter_map(|group| {
            let (first, last) = ends(rows, |row| Some(*row.lag_records.get(group)? as f64))?;
            let grew = last - first > figures.accepted_per_second.max(1.0);
            grew.then(|| format!("{group} from {first:.0} to {last:.0} records"))
        })
        .collect();
    (!grown.is_empty()).then(|| {
        let text = format!("events are accepted faster than they are processed: the lag grows ({})", grown.join(", "));
        Finding::new(Limit::Consumer, text)
    })
}

/// How more work waited than was done, if it did.
fn work_that_waits(figures: &Figures, rows: &[&Row]) -> Option<String> {
    let Some(rate) = figures.load.rate_per_second.filter(|_| is_open(figures)) else {
        let (connections, p50) = (figures.load.connections, figures.latency.p50_ms);
        return Some(format!("{connections} connections wait for their replies (p50 {p50:.2} ms)"));
    };
    let rate = rate as f64;
    if let Some((first, last)) = ends(rows, |row| Some((row.in_flight + row.backlog) as f64))
        && last > 2.0 * first
        && last - first > 10.0 + rate / 20.0
    {
        return Some(format!("the backlog grows (from {first:.0} to {last:.0} requests)"));
    }
    if let Some(reason) = &figures.stopped {
        return Some(format!("the run was stopped ({reason})"));
    }
    let wanted = rate * figures.load.batch_events as f64;
    let share = figures.accepted_per_second / wanted;
    (share < CARRIED_SHARE).then(|| format!("only {:.0} % of the rate was accepted", share * 100.0))
}

fn is_open(figures: &Figures) -> bool {
    figures.load.rate_per_second.is_some()
}

/// Means of a figure in the first and in the last quarter of the rows that have it.
fn ends(rows: &[&Row], figure: impl Fn(&Row) -> Option<f64>) -> Option<(f64, f64)> {
    let values: Vec<f64> = rows.iter().filter_map(|row| figure(row)).collect();
    let quarter = values.len().div_ceil(4);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (values.get(..quarter)?, values.get(values.len() - quarter..)?);
    (quarter > 0).then(|| (mean(first), mean(last)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sample;

    fn limits(figures: &Figures, rows: &[Row]) -> Vec<Limit> {
        find(figures, rows, 2).into_iter().map(|finding| finding.limit).collect()
    }

    fn use_cores(figures: &mut Figures, cores: &[(&str, f64)]) {
        for (name, cores) in cores {
            figures.components.entry((*name).to_owned()).or_default().cpu_cores = *cores;
        }
    }

    #[test]
    fn a_carried_load_names_the_idle_cores() {
        let (figures, rows) = (sample::figures(), sample::rows());
        let found = find(&figures, &rows, 2);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].text, "nothing: the load was carried with 0.80 of 2 cores idle");
        let mut alone = figures;
        alone.components.retain(|name, _| name == GENERATOR);
        assert!(find(&alone, &rows, 2)[0].text.contains("was not measured"));
    }

    #[test]
    fn busy_cores_are_the_main_finding_with_the_greatest_first() {
        let mut figures = sample::figures();
        use_cores(&mut figures, &[("kafka", 0.61), ("triggers", 0.72), ("postgres", 0.2), ("generator", 0.4)]);
        figures.send_delay.p99_ms = figures.latency.p99_ms;
        let found = find(&figures, &sample::rows(), 2);
        let text = "all 2 cores are busy (1.93 of 2: triggers 0.72, kafka 0.61, generator 0.40, postgres 0.20)";
        assert_eq!(found[0].text, text);
        assert_eq!(found[1].limit, Limit::Generator, "it is late as well");
    }

    #[test]
    fn a_growing_backlog_beside_idle_cores_is_a_wait() {
        let (figures, mut rows) = (sample::figures(), sample::rows());
        for (n, row) in rows.iter_mut().enumerate() {
            row.backlog = 200 * n as u64;
        }
        let found = find(&figures, &rows, 2);
        assert_eq!(found[0].limit, Limit::Waiting, "{found:?}");
        assert!(found[0].text.contains("the backlog grows"), "{found:?}");
        let mut alone = figures;
        alone.components.clear();
        assert_eq!(limits(&alone, &rows), [Limit::Unknown], "without CPU figures no core is called idle");
    }

    #[test]
    fn a_late_generator_is_found_unless_its_connections_were_busy() {
        let (mut figures, mut rows) = (sample::figures(), sample::rows());
        figures.send_delay.p99_ms = figures.latency.p99_ms * 0.6;
        assert_eq!(limits(&figures, &rows), [Limit::Generator]);
        for row in &mut rows {
            (row.in_flight, row.backlog) = (figures.load.connections as u64, 50);
        }
        assert_eq!(limits(&figures, &rows), [Limit::Connections]);
        use_cores(&mut figures, &[(GENERATOR, 0.95), ("triggers", 0.2)]);
        assert_eq!(limits(&figures, &rows), [Limit::Generator, Limit::Connections], "its thread is busy");
    }

    #[test]
    fn errors_and_a_growing_lag_are_found() {
        let (mut figures, mut rows) = (sample::figures(), sample::rows());
        figures.error_percent = 4.0;
        figures.outcomes.insert("status_429".to_owned(), 3);
        let found = find(&figures, &rows, 2);
        assert_eq!(found[0].text, "4.00 % of the requests failed (status_503 7, status_429 3)");
        figures.error_percent = 0.0;
        for (n, row) in rows.iter_mut().enumerate() {
            row.lag_records = BTreeMap::from([("materializer".to_owned(), 500 * n as u64), ("idle".to_owned(), 3)]);
        }
        let found = find(&figures, &rows, 2);
        assert_eq!((found.len(), found[0].limit), (1, Limit::Consumer), "{found:?}");
        assert!(found[0].text.contains("materializer from") && !found[0].text.contains("idle"), "{found:?}");
    }

    #[test]
    fn a_rate_that_is_not_reached_and_a_closed_loop_wait_for_something() {
        let (mut figures, rows) = (sample::figures(), sample::rows());
        figures.accepted_per_second *= 0.8;
        assert_eq!(limits(&figures, &rows), [Limit::Waiting]);
        let mut stopped = sample::figures();
        stopped.stopped = Some("p95 over 200 ms for 10 s".to_owned());
        assert!(find(&stopped, &rows, 2)[0].text.contains("the run was stopped (p95 over 200 ms for 10 s)"));
        let mut closed = sample::figures();
        closed.load.rate_per_second = None;
        assert!(find(&closed, &rows, 2)[0].text.contains("256 connections wait"));
        use_cores(&mut closed, &[(GENERATOR, 0.95), ("triggers", 0.2)]);
        assert_eq!(limits(&closed, &rows), [Limit::Generator], "the system waits for the generator");
        closed.requests = 0;
        assert_eq!(limits(&closed, &rows), [Limit::Unknown]);
    }
}
