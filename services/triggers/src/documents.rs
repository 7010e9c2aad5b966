//! Tests that keep documents consistent with the code: `docs/configuration.md` (which `make docs` generates from the
//! options), `docs/metrics.md`, the test names in `docs/features.md`, and links between documents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, CommandFactory as _};

use crate::Cli;
use crate::roles::api_description;

/// Long-running commands, in the order in which the page lists them.
const ROLES: [&str; 4] = ["up", "ingest", "materializer", "dispatcher"];

const HEADER: &str = "\
# Configuration

Every option of the roles is also an environment variable, except `--kafka`. `triggers ROLE --help` shows the same.
Options of the other commands are in their `--help`. This page is generated from the code: run `make docs` after a
change.

Flags take no value on the command line. As a variable, `true`, `1`, `yes` or `on` sets them; `false`, `0`, `no`, `off`
or an empty value does not. An invalid value is an error at start, which names the option.

Secrets can be in files: `DATABASE_URL`, `DEV_API_KEYS`, `OPERATOR_TOKEN`, `SEALING_KEY` and `TRIGGERS_API_KEY`, and the
value of each Kafka property, may be `@FILE`. The content of that file is used, without line breaks at its end.

| variable | option | default | unit | roles | meaning |
| --- | --- | --- | --- | --- | --- |
";

/// Variable, option, default and meaning. They may differ between roles.
type Row = (String, String, String, String);

#[test]
fn configuration_page_matches_the_options() {
    let page = configuration();
    let path = repository().join("docs/configuration.md");
    if std::env::var_os("WRITE_DOCS").is_some() {
        replace_file(&path, &page);
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == page, "docs/configuration.md differs from the options; run: make docs");
}

/// Writes a file as a whole. Another test that reads it meanwhile sees the old one or the new one.
pub(crate) fn replace_file(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn configuration() -> String {
    let mut rows: BTreeMap<Row, Vec<&'static str>> = BTreeMap::new();
    for role in ROLES {
        let mut cli = Cli::command();
        cli.build();
        let command = cli.find_subcommand(role).unwrap();
        for (variable, arg) in command.get_arguments().filter_map(|arg| Some((variable_of(arg)?, arg))) {
            rows.entry(row_of(variable, arg)).or_default().push(role);
        }
    }
    let mut page = HEADER.to_owned();
    for ((variable, option, default, meaning), roles) in rows {
        let unit = unit_of(&variable);
        page += &format!("| `{variable}` | `{option}` | {default} | {unit} | {} | {meaning} |\n", roles.join(", "));
    }
    page
}

fn variable_of(arg: &Arg) -> Option<String> {
    arg.get_env().map(|name| name.to_string_lossy().into_owned())
}

fn row_of(variable: String, arg: &Arg) -> Row {
    let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    // A default that is computed later is written in the help text.
    let (meaning, written) = match help.split_once(" [default: ") {
        Some((meaning, default)) => (meaning.to_owned(), Some(default.trim_end_matches(']').to_owned())),
        None => (help, None),
    };
    let default = match written.or_else(|| (!defaults.is_empty()).then(|| defaults.join(","))) {
        Some(default) if !default.is_empty() && !is_flag => format!("`{default}`"),
        _ if is_flag => "off".to_owned(),
        _ => "none".to_owned(),
    };
    let meaning = meaning.replace('|', "\\|").replace('\n', " ");
    (variable, format!("--{}", arg.get_long().unwrap_or_default()), default, meaning)
}

fn unit_of(variable: &str) -> &'static str {
    let units = [("_MS", "ms"), ("_BYTES", "bytes"), ("_MIB", "MiB"), ("_SECONDS", "s"), ("_DAYS", "days")];
    units.iter().find(|(suffix, _)| variable.ends_with(suffix)).map_or("", |(_, unit)| unit)
}

#[test]
fn metrics_page_matches_the_metrics() {
    let page = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let documented: BTreeSet<(String, String, String)> = page
        .lines()
        .filter(|line| line.starts_with("| `triggers_"))
        .map(cells)
        .map(|cells| (cells[1].trim_matches('`').to_owned(), cells[2].clone(), cells[4].clone()))
        .collect();
    let in_source = metrics_in(&repository().join("services"));
    assert!(in_source.len() > 30, "the source has metrics: {}", in_source.len());
    let missing: Vec<_> = in_source.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&in_source).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not in docs/metrics.md: {missing:#?}; not in the code: {unknown:#?}"
    );
}

/// Name, type and help of each metric in the source.
fn metrics_in(folder: &Path) -> BTreeSet<(String, String, String)> {
    let mut sources = String::new();
    read_all(folder, "rs", &mut sources);
    metrics_of(&sources).into_iter().collect()
}

fn metrics_of(source: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for kind in ["counter", "gauge", "histogram"] {
        let calls = [format!("metrics::{kind}("), format!("metrics::{kind}_vec("), format!("metrics::int_{kind}_vec(")];
        for call in calls {
            for (at, _) in source.match_indices(&call) {
                let mut literals = source[at + call.len()..].split('"');
                let is_literal = literals.next().is_some_and(|before| before.trim().is_empty());
                if let (true, Some(name), _, Some(help)) =
                    (is_literal, literals.next(), literals.next(), literals.next())
                    && name.starts_with("triggers_")
                {
                    found.push((name.to_owned(), kind.to_owned(), join_lines(help)));
                }
            }
        }
    }
    found
}

/// A literal without its line continuations (backslash, newline, indentation).
fn join_lines(literal: &str) -> String {
    let mut parts = literal.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn pages_name_existing_tests() {
    let mut sources = String::new();
    for folder in ["services", "schemas", "loadtests"] {
        read_all(&repository().join(folder), "rs", &mut sources);
    }
    for (file, at_least) in [("docs/features.md", 50), ("docs/api-compatibility.md", 15), ("docs/webhooks.md", 100)] {
        let page = std::fs::read_to_string(repository().join(file)).unwrap();
        let named: BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(|code| is_test_name(code)).collect();
        assert!(named.len() > at_least, "{file} names tests: {}", named.len());
        let missing: Vec<_> = named.into_iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
        assert!(missing.is_empty(), "{file} names tests that do not exist: {missing:#?}");
    }
}

/// In tables whose last column has tests.
#[test]
fn each_row_about_webhooks_names_its_test() {
    let page = std::fs::read_to_string(repository().join("docs/webhooks.md")).unwrap();
    let (mut is_about_tests, mut rows, mut without) = (false, 0, Vec::new());
    for line in page.lines() {
        let last = line.trim_end().trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
        if !line.starts_with('|') {
            is_about_tests = false;
        } else if last == "test" {
            is_about_tests = true;
        } else if is_about_tests && !last.starts_with("---") {
            rows += 1;
            if !last.split('`').skip(1).step_by(2).any(is_test_name) {
                without.push(line);
            }
        }
    }
    assert!(rows > 90, "the page has rows with tests: {rows}");
    assert!(without.is_empty(), "rows of docs/webhooks.md without a test: {without:#?}");
}

#[test]
fn each_setting_of_webhooks_is_on_their_page() {
    let page = std::fs::read_to_string(repository().join("docs/webhooks.md")).unwrap();
    let (_, settings) = page.split_once("\n## What a setting does\n").unwrap();
    let (settings, _) = settings.split_once("\n## ").unwrap();
    // What code font has in the first column.
    let first_cells = settings.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let documented: BTreeSet<&str> = first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let api = api_description();
    let members = api["components"]["schemas"]["NewEndpoint"]["properties"].as_object().unwrap();
    let mut cli = Cli::command();
    cli.build();
    let options = cli.find_subcommand("dispatcher").unwrap().get_arguments().filter_map(variable_of);
    let of_ingest = "WEBHOOK_MAX_ENDPOINT_CHANGES_PER_HOUR";
    let expected: BTreeSet<String> = options
        .filter(|variable| variable.contains("WEBHOOK"))
        .chain([of_ingest.to_owned()])
        .chain(members.keys().cloned())
        .collect();
    let documented: BTreeSet<String> = documented.into_iter().map(str::to_owned).collect();
    assert_eq!(documented, expected, "left: docs/webhooks.md; right: the options and members");
}

#[test]
fn each_test_of_old_clients_is_on_their_page() {
    let page = std::fs::read_to_string(repository().join("docs/api-compatibility.md")).unwrap();
    let mut tests = String::new();
    read_all(&repository().join("services/triggers/tests/it/old_clients"), "rs", &mut tests);
    // What follows the attribute is the name of a test.
    let names = tests.split("#[tokio::test").skip(1).filter_map(|test| test.split_once("fn ")?.1.split('(').next());
    let missing: Vec<&str> = names.filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/api-compatibility.md does not name {missing:#?}");
}

#[test]
fn quoted_log_lines_exist() {
    let page = std::fs::read_to_string(repository().join("docs/operating.md")).unwrap();
    let mut sources = String::new();
    for crate_folder in std::fs::read_dir(repository().join("services")).unwrap() {
        let source_folder = crate_folder.unwrap().path().join("src");
        if source_folder.exists() {
            read_all(&source_folder, "rs", &mut sources);
        }
    }
    // In a row `… the log says `A` or `B` | …` everything in code font up to the end of the cell is quoted.
    let cells = page.split("the log says `").skip(1).filter_map(|rest| rest.split(" | ").next());
    let quoted: Vec<&str> = cells.flat_map(|cell| cell.split('`').step_by(2)).filter(|text| !text.is_empty()).collect();
    assert!(quoted.len() >= 5, "the page quotes log lines: {quoted:?}");
    let missing: Vec<_> = quoted.into_iter().filter(|text| !sources.contains(&format!("\"{text}"))).collect();
    assert!(missing.is_empty(), "docs/operating.md quotes log lines that do not exist: {missing:#?}");
}

/// A test name has at least four words in lower case, joined by underscores.
fn is_test_name(code: &str) -> bool {
    code.matches('_').count() >= 3
        && code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !code.starts_with("triggers_")
        && code != "rate_limit_per_second"
}

#[test]
fn links_between_documents_are_valid() {
    let mut pages: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md"].map(|name| repository().join(name)).to_vec();
    for folder in ["docs", "docs/adr"] {
        let entries = std::fs::read_dir(repository().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    let mut broken = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if !link.contains("://") && !is_valid_link(&page, link) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links: {broken:#?}");
}

fn is_valid_link(page: &Path, link: &str) -> bool {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) };
    if heading.is_empty() {
        return target.exists();
    }
    let text = std::fs::read_to_string(target).unwrap_or_default();
    text.lines().filter(|line| line.starts_with('#')).any(|line| anchor_of(line) == heading)
}

/// The anchor of a heading, as Markdown renderers make it: lower case, hyphens instead of spaces, no punctuation.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn read_all(folder: &Path, extension: &str, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, extension, text);
        } else if path.extension().is_some_and(|found| found == extension) {
            *text += &std::fs::read_to_string(&path).unwrap();
        }
    }
}
