//! `triggers send`: sends one event from options, or many from JSON lines, each line a body of `POST /v1/events`.
//!
//! A line that may not have been stored is sent again with the same `Idempotency-Key`, so it never becomes a second
//! event.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::stream::{self, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, StatusCode};
use runtime::retry::Backoff;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::print;
use crate::client::{Client, Credential, ErrorResponse};

/// Longest line; the API accepts no larger body.
const MAX_LINE_BYTES: usize = 512 * 1024;
const MAX_ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Largest number of refused lines that are printed; more are only counted.
const MAX_REPORTED: u64 = 20;

/// Options of `triggers send`.
#[derive(Args)]
pub(crate) struct SendArgs {
    /// Type of the event
    #[arg(required_unless_present = "file")]
    event_type: Option<String>,
    /// Payload of the event, JSON
    #[arg(default_value = "{}")]
    payload: String,
    /// A second event with this id within 24 hours is refused
    #[arg(long)]
    dedup_id: Option<String>,
    /// A repeat with this key within 24 hours gets the response of the first request; default: a random key
    #[arg(long, value_name = "KEY", conflicts_with = "dedup_id")]
    idempotency_key: Option<String>,
    /// Send each line of this file as an event; - is standard input
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["event_type", "dedup_id", "idempotency_key"])]
    file: Option<PathBuf>,
    /// Largest number of concurrent requests; 1 keeps the order of the lines
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// Show no progress bar
    #[arg(long, short)]
    quiet: bool,
}

pub(super) async fn run(client: &Client, args: SendArgs) -> Result<()> {
    match args.file {
        Some(file) => send_lines(client, &file, args.concurrency, args.quiet).await,
        None => {
            // Not through a `Value`: the payload is sent byte for byte.
            let payload: &RawValue = serde_json::from_str(&args.payload).context("the payload is not JSON")?;
            let body = OneEvent { event_type: args.event_type.as_deref(), payload, dedup_id: args.dedup_id.as_deref() };
            // One request without retries, so that the user sees its response. The key makes a repeat by the user safe.
            let key = args.idempotency_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            let mut request = client.request(Credential::ApiKey, Method::POST, "/v1/events")?.json(&body);
            if args.dedup_id.is_none() {
                request = request.header("idempotency-key", &key);
            }
            match client.fetch(request).await {
                Ok(response) => print::json(&response),
                Err(error)
                    if error
                        .downcast_ref::<ErrorResponse>()
                        .is_some_and(|response| response.status.is_client_error()) =>
                {
                    Err(error)
                }
                Err(error) if args.dedup_id.is_some() => {
                    Err(error.context("not confirmed; repeat the command with the same --dedup-id"))
                }
                Err(error) => {
                    Err(error.context(format!("not confirmed; repeat the command with --idempotency-key {key}")))
                }
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

/// Number of lines by outcome.
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
    // Reading a file or a pipe blocks, so it needs its own thread. The channel bounds what it reads ahead.
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
        reader.await.context("the reading thread panicked")?;
    }
    let (accepted, duplicates, refused) =
        (tally.accepted.into_inner(), tally.duplicates.into_inner(), tally.refused.into_inner());
    print::line(&format!("{accepted} accepted, {duplicates} duplicates, {refused} refused"))?;
    failed?;
    if refused > 0 { bail!("{refused} lines were refused") } else { Ok(()) }
}

/// The lines, and their size in bytes if it is known.
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
    // `indicatif` hides it when standard error is not a terminal.
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

/// Outcome of sending one line.
enum SendOutcome {
    Accepted,
    Duplicate,
    Refused(String),
}

async fn send_one(client: &Client, body: &[u8]) -> Result<SendOutcome> {
    let key = uuid::Uuid::new_v4().to_string();
    // An Idempotency-Key would take precedence over the `dedup_id` of the body.
    let has_dedup_id = has_dedup_id(body);
    let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
    let mut last = String::new();
    for attempt in 1..=MAX_ATTEMPTS {
        let mut retry_after = None;
        let mut request = client
            .request(Credential::ApiKey, Method::POST, "/v1/events")?
            .header("content-type", "application/json")
            .body(body.to_vec());
        if !has_dedup_id {
            request = request.header("idempotency-key", &key);
        }
        match request.send().await {
            Ok(response) => match response.status() {
                status if status.is_success() => return Ok(SendOutcome::Accepted),
                // A conflict with an earlier attempt of this line: that attempt was stored.
                StatusCode::CONFLICT => {
                    return Ok(if attempt > 1 { SendOutcome::Accepted } else { SendOutcome::Duplicate });
                }
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    retry_after =
                        response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                    last = format!("HTTP {}", response.status().as_u16());
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    bail!(
                        "the API key is refused (HTTP {}); check --key or TRIGGERS_API_KEY",
                        response.status().as_u16()
                    )
                }
                status => return Ok(SendOutcome::Refused(detail(status, &response.bytes().await.unwrap_or_default()))),
            },
            Err(error) => last = error.without_url().to_string(),
        }
        let pause = retry_after.map_or_else(|| backoff.next_delay(), Duration::from_secs);
        tokio::time::sleep(pause.min(MAX_PAUSE)).await;
    }
    bail!("not accepted in {MAX_ATTEMPTS} attempts; last error: {last}")
}

/// The dedup id in a line.
#[derive(Deserialize)]
struct DedupIdField {
    dedup_id: Option<String>,
}

/// Whether the body itself (not its payload) has a `dedup_id`. The API refuses a body that cannot be parsed.
fn has_dedup_id(body: &[u8]) -> bool {
    serde_json::from_slice::<DedupIdField>(body).is_ok_and(|line| line.dedup_id.is_some())
}

fn detail(status: StatusCode, body: &[u8]) -> String {
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str().map(str::to_owned));
    detail.unwrap_or_else(|| format!("HTTP {}", status.as_u16()))
}

fn count(tally: &Tally, number: u64, outcome: Result<SendOutcome>) -> Result<()> {
    match outcome.with_context(|| format!("line {number}"))? {
        SendOutcome::Accepted => drop(tally.accepted.fetch_add(1, Ordering::Relaxed)),
        SendOutcome::Duplicate => drop(tally.duplicates.fetch_add(1, Ordering::Relaxed)),
        SendOutcome::Refused(reason) => {
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
    fn a_dedup_id_inside_the_payload_does_not_count() {
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
