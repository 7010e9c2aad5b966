//! `triggers send`: one event from flags, or many from JSON lines, each line a body of `POST /v1/events`.
//!
//! Repeats what may not have been stored, under an `Idempotency-Key` of its own, so that a repeat never becomes a
//! second event.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::stream::{self, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use platform::retry::Backoff;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::print;
use crate::client::{As, Client, Refused};

/// Longest line that is read; the system takes no larger body.
const MAX_LINE_BYTES: usize = 512 * 1024;
const MAX_TRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Refused lines that are printed; the rest is only counted.
const MAX_REPORTED: u64 = 20;

/// Flags of `triggers send`.
#[derive(Args)]
pub(crate) struct SendArgs {
    /// Type of the one event
    #[arg(required_unless_present = "file")]
    event_type: Option<String>,
    /// Its payload, JSON
    #[arg(default_value = "{}")]
    payload: String,
    /// Repeats with the same id within 24 hours are refused
    #[arg(long)]
    dedup_id: Option<String>,
    /// A repeat with the same key within 24 hours is answered as the first one was; made up when not given
    #[arg(long, value_name = "KEY", conflicts_with = "dedup_id")]
    idempotency_key: Option<String>,
    /// Send the lines of this file instead; - is standard input
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["event_type", "dedup_id", "idempotency_key"])]
    file: Option<PathBuf>,
    /// Requests at once; 1 keeps the order of the lines
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// No progress bar
    #[arg(long, short)]
    quiet: bool,
}

pub(super) async fn run(client: &Client, args: SendArgs) -> Result<()> {
    match args.file {
        Some(file) => send_lines(client, &file, args.concurrency, args.quiet).await,
        None => {
            // Not through a `Value`: the payload goes out byte for byte.
            let payload: &RawValue = serde_json::from_str(&args.payload).context("the payload is not JSON")?;
            let body = OneEvent { event_type: args.event_type.as_deref(), payload, dedup_id: args.dedup_id.as_deref() };
            // One request, so that its answer is the answer. The key makes the API's own advice true of this command,
            // too.
            let key = args.idempotency_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            let mut request = client.request(As::Key, Method::POST, "/v1/events")?.json(&body);
            if args.dedup_id.is_none() {
                request = request.header("idempotency-key", &key);
            }
            match client.fetch(request).await {
                Ok(answer) => print::json(&answer),
                Err(error)
                    if error.downcast_ref::<Refused>().is_some_and(|refused| refused.status.is_client_error()) =>
                {
                    Err(error)
                }
                Err(error) if args.dedup_id.is_some() => {
                    Err(error.context("not confirmed; send it again with the same --dedup-id"))
                }
                Err(error) => Err(error.context(format!("not confirmed; send it again with --idempotency-key {key}"))),
            }
        }
    }
}

/// The body of one event.
#[derive(Serialize)]
struct OneEvent<'a> {
    event_type: Option<&'a str>,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedup_id: Option<&'a str>,
}

/// What became of the lines.
#[derive(Default)]
struct Tally {
    accepted: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
}

async fn send_lines(client: &Client, file: &PathBuf, concurrency: u16, quiet: bool) -> Result<()> {
    let (lines, total) = open(file)?;
    let progress = progress_bar(total, quiet)?;
    let tally = Tally::default();
    let (sender, receiver) = mpsc::channel::<Result<(u64, Vec<u8>)>>(usize::from(concurrency) * 2);
    // Reading a file or a pipe blocks, so it has a thread of its own; the channel bounds what it reads ahead.
    let reader = tokio::task::spawn_blocking(move || read_lines(lines, &sender));
    let numbered =
        stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|line| (line, receiver)) });
    let outcomes = numbered.map(|line| async {
        let (number, body) = line?;
        let outcome = send_one(client, &body).await;
        progress.inc(body.len() as u64 + 1);
        count(&tally, number, outcome)
    });
    let mut outcomes = Box::pin(outcomes.buffer_unordered(usize::from(concurrency)));
    let mut failed = Ok(());
    while let Some(outcome) = outcomes.next().await {
        progress.set_message(format!("{} accepted", tally.accepted.load(Ordering::Relaxed)));
        if outcome.is_err() {
            failed = outcome;
            break;
        }
    }
    drop(outcomes);
    progress.finish_and_clear();
    if failed.is_ok() {
        reader.await.context("reading was interrupted")?;
    }
    let (accepted, duplicates, refused) =
        (tally.accepted.into_inner(), tally.duplicates.into_inner(), tally.refused.into_inner());
    print::line(&format!("{accepted} accepted, {duplicates} duplicates, {refused} refused"))?;
    failed?;
    if refused > 0 { bail!("{refused} lines were refused") } else { Ok(()) }
}

/// The lines, and how many bytes they have in all where that is known.
fn open(file: &PathBuf) -> Result<(Box<dyn BufRead + Send>, Option<u64>)> {
    if file.as_os_str() == "-" {
        return Ok((Box::new(BufReader::new(std::io::stdin())), None));
    }
    let opened = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let length = opened.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
    Ok((Box::new(BufReader::new(opened)), length))
}

fn progress_bar(total: Option<u64>, quiet: bool) -> Result<ProgressBar> {
    if quiet {
        return Ok(ProgressBar::hidden());
    }
    // Hidden by itself where standard error is no terminal.
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{bar:40} {percent}%  {msg}  {elapsed} (eta {eta})"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}  {msg}  {elapsed}"),
    };
    Ok(bar.with_style(ProgressStyle::with_template(template)?))
}

fn read_lines(mut lines: Box<dyn BufRead + Send>, sender: &mpsc::Sender<Result<(u64, Vec<u8>)>>) {
    for number in 1.. {
        let mut line = Vec::new();
        let read = lines.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line);
        let message = match read {
            Ok(0) => return,
            Ok(_) if line.len() > MAX_LINE_BYTES => {
                Err(anyhow::anyhow!("line {number} is longer than {MAX_LINE_BYTES} bytes"))
            }
            Ok(_) => Ok((number, line.trim_ascii().to_vec())),
            Err(error) => Err(error).with_context(|| format!("line {number} cannot be read")),
        };
        let last = message.is_err();
        let blank = matches!(&message, Ok((_, line)) if line.is_empty());
        if !blank && sender.blocking_send(message).is_err() || last {
            return;
        }
    }
}

/// What became of one line.
enum Outcome {
    Accepted,
    Duplicate,
    Refused(String),
}

async fn send_one(client: &Client, body: &[u8]) -> Result<Outcome> {
    let key = uuid::Uuid::new_v4().to_string();
    // With a `dedup_id` the event has a name already; an Idempotency-Key would take precedence over it.
    let named = has_dedup_id(body);
    let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
    let mut last = String::new();
    for attempt in 1..=MAX_TRIES {
        let mut asked = None;
        let mut request = client
            .request(As::Key, Method::POST, "/v1/events")?
            .header("content-type", "application/json")
            .body(body.to_vec());
        if !named {
            request = request.header("idempotency-key", &key);
        }
        match request.send().await {
            Ok(response) => match response.status() {
                status if status.is_success() => return Ok(Outcome::Accepted),
                // A repeat of our own that was stored after all is no duplicate of the user's.
                StatusCode::CONFLICT => return Ok(if attempt > 1 { Outcome::Accepted } else { Outcome::Duplicate }),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                    last = format!("HTTP {}", response.status().as_u16());
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    bail!("the key is refused (HTTP {})", response.status().as_u16())
                }
                status => return Ok(Outcome::Refused(detail(status, &response.bytes().await.unwrap_or_default()))),
            },
            Err(error) => last = error.without_url().to_string(),
        }
        let pause = asked.map_or_else(|| backoff.next_delay(), Duration::from_secs);
        tokio::time::sleep(pause.min(MAX_PAUSE)).await;
    }
    bail!("the system does not take events: {last}")
}

/// The part of a line that decides how it may be repeated.
#[derive(Deserialize)]
struct Named {
    dedup_id: Option<String>,
}

/// Whether the body itself, not its payload, names the event. What cannot be read is refused by the system in any case.
fn has_dedup_id(body: &[u8]) -> bool {
    serde_json::from_slice::<Named>(body).is_ok_and(|line| line.dedup_id.is_some())
}

fn detail(status: StatusCode, body: &[u8]) -> String {
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str().map(str::to_owned));
    detail.unwrap_or_else(|| format!("HTTP {}", status.as_u16()))
}

fn count(tally: &Tally, number: u64, outcome: Result<Outcome>) -> Result<()> {
    match outcome.with_context(|| format!("line {number}"))? {
        Outcome::Accepted => drop(tally.accepted.fetch_add(1, Ordering::Relaxed)),
        Outcome::Duplicate => drop(tally.duplicates.fetch_add(1, Ordering::Relaxed)),
        Outcome::Refused(reason) => {
            let before = tally.refused.fetch_add(1, Ordering::Relaxed);
            if before < MAX_REPORTED {
                eprintln!("line {number}: {reason}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dedup_id_of_the_event_itself_names_it() {
        assert!(has_dedup_id(br#"{"event_type": "a", "payload": {}, "dedup_id": "x"}"#));
        for unnamed in [
            r#"{"event_type": "a", "payload": {"dedup_id": "x"}}"#,
            r#"{"event_type": "a", "payload": "\"dedup_id\"", "dedup_id": null}"#,
            r#"{"event_type": "dedup_id", "payload": 1}"#,
            r#"{"dedup_id": "x""#,
        ] {
            assert!(!has_dedup_id(unnamed.as_bytes()), "{unnamed}");
        }
    }
}
