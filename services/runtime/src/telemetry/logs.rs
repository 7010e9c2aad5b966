//! Log output: one JSON object per line on standard error, or readable text on a terminal.

use std::fmt;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use clap::ValueEnum;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// librdkafka logs internals at `info`.
const DEFAULT_FILTER: &str = "info,librdkafka=warn";

/// The format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `Human` on a terminal, `Json` otherwise.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// Readable text.
    Human,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Human => "human",
        })
    }
}

/// Starts logging for the process, panics included. Every JSON line has `role`. The filter is `RUST_LOG`; if that is
/// unset or invalid, it is `info`, with librdkafka at `warn`. If logging was started before, as by another test, this
/// does nothing.
pub fn init(role: &str, format: LogFormat) {
    // A compose file sets an unset variable to the empty string, which as a filter would silence warnings.
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|wanted| !wanted.trim().is_empty());
    let filter =
        wanted.and_then(|wanted| EnvFilter::try_new(wanted).ok()).unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let started = if human {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    } else {
        builder.event_format(JsonLines { role: role.to_owned() }).try_init()
    };
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let reason = panic.payload_as_str().unwrap_or("not text");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    tracing::error!(target: "panic", location, reason, thread, "Thread or task panicked.");
}

/// Writes an event as one JSON object: time, level, role, target and message first, then its fields. Fields of spans
/// are omitted: the code opens no spans, and an event of a request has a `request_id` field.
struct JsonLines {
    role: String,
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line { message: String::new(), fields: Map::new() };
        event.record(&mut line);
        let text = |text: &str| Value::from(text).to_string();
        let now = OffsetDateTime::now_utc();
        let now = now.replace_millisecond(now.millisecond()).unwrap_or(now).format(&Rfc3339).map_err(|_| fmt::Error)?;
        let metadata = event.metadata();
        write!(writer, "{{\"timestamp\":\"{now}\",\"level\":\"{}\"", metadata.level())?;
        write!(
            writer,
            ",\"role\":{},\"target\":{},\"message\":{}",
            text(&self.role),
            text(metadata.target()),
            text(&line.message)
        )?;
        for (name, value) in &line.fields {
            write!(writer, ",{}:{value}", text(name))?;
        }
        writeln!(writer, "}}")
    }
}

struct Line {
    message: String,
    fields: Map<String, Value>,
}

impl Line {
    fn set(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            "message" => {
                self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                return;
            }
            // JSON parsers disagree about duplicate keys.
            reserved @ ("timestamp" | "level" | "role" | "target") => format!("field_{reserved}"),
            name => name.to_owned(),
        };
        self.fields.insert(name, value);
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_one_json_object_with_its_fields_typed() {
        let captured = Captured::default();
        let writer = captured.clone();
        let format = JsonLines { role: "ingest \"1\"".to_owned() };
        let subscriber = tracing_subscriber::fmt().event_format(format).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(count = 3, up = true, text = "a\n\"b\"", level = "mine", "Two\nlines.");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["role"], "ingest \"1\"");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "Two\nlines.");
        assert_eq!(line["count"], 3);
        assert_eq!(line["up"], true);
        assert_eq!(line["text"], "a\n\"b\"");
        assert_eq!(line["field_level"], "mine");
        assert!(OffsetDateTime::parse(line["timestamp"].as_str().unwrap(), &Rfc3339).is_ok());
    }
}
