//! The bare client: signs a payload and posts it, with so many requests in flight, for as long as a load is measured.
//!
//! It is a process of its own, as the dispatcher is. It reads no log, checks no address, retries and records nothing.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::process::Command;
use uuid::Uuid;

use super::receiver::Receiver;
use crate::cli::BareSenderArgs;
use crate::process_usage::{self, Component};
use crate::scenario::Load;

/// How much longer than its load the process may take.
const GRACE: Duration = Duration::from_secs(20);

/// The figures of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BarePost {
    /// Requests that were answered with success, per second.
    pub per_second: f64,
    /// CPU of the process, microseconds for each.
    pub cpu_us: f64,
}

/// Runs the process against `receiver`.
pub(crate) async fn run(receiver: &Receiver, load: &Load, in_flight: u16) -> anyhow::Result<BarePost> {
    let child = Command::new(std::env::current_exe().context("finding this binary")?)
        .args(["bare-sender", "--url", &receiver.base_url, "--in-flight", &in_flight.to_string()])
        .args([
            "--payload-bytes",
            &load.payload_bytes.median().to_string(),
            "--receivers",
            &load.organizations.to_string(),
        ])
        .args(["--seconds", &load.measured.as_secs().max(1).to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting the bare client")?;
    let output = tokio::time::timeout(load.measured + GRACE, child.wait_with_output());
    let output = output.await.context("the bare client does not end")?.context("running the bare client")?;
    ensure!(output.status.success(), "the bare client ended with {}", output.status);
    let figures: BarePost = serde_json::from_slice(&output.stdout).context("the bare client printed no figures")?;
    println!("bare client: {:.0}/s, {:.1} us of CPU for each", figures.per_second, figures.cpu_us);
    Ok(figures)
}

/// Runs the process against a receiver of its own.
pub(crate) async fn run_alone(load: &Load, in_flight: u16, answer_after: Duration) -> anyhow::Result<BarePost> {
    run(&Receiver::start(answer_after)?, load, in_flight).await
}

/// The process.
pub(crate) async fn send(arguments: BareSenderArgs) -> anyhow::Result<()> {
    // reqwest needs a TLS provider even for plain HTTP. An error means that one is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client =
        reqwest::Client::builder().pool_max_idle_per_host(usize::MAX).build().context("building the client")?;
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let started = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for number in 0..arguments.in_flight {
        let url = format!("{}/ok/{}", arguments.url, u32::from(number) % arguments.receivers);
        senders.spawn(send_in_turn(client.clone(), url, arguments.payload_bytes, until));
    }
    let mut sent = 0;
    while let Some(result) = senders.join_next().await {
        sent += result.context("a sender failed")??;
    }
    let pid = std::process::id();
    let own = process_usage::usage(&[Component { name: "bare".to_owned(), pid }]);
    let cpu_seconds = own.get("bare").map_or(f64::NAN, |usage| usage.cpu_seconds);
    let per_second = sent as f64 / started.elapsed().as_secs_f64();
    let figures = BarePost { per_second, cpu_us: cpu_seconds * 1_000_000.0 / sent as f64 };
    println!("{}", serde_json::to_string(&figures).context("printing the figures")?);
    Ok(())
}

async fn send_in_turn(
    client: reqwest::Client,
    url: String,
    payload_bytes: usize,
    until: Instant,
) -> anyhow::Result<u64> {
    let secret = Hmac::<Sha256>::new_from_slice(&[7; 32]).context("a secret of 32 bytes")?;
    let mut sent = 0;
    while Instant::now() < until {
        let id = Uuid::now_v7().to_string();
        let body = format!(r#"{{"event_id":"{id}","data":"{}"}}"#, "x".repeat(payload_bytes));
        let timestamp = time::OffsetDateTime::now_utc().unix_timestamp().to_string();
        let mut mac = secret.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body.as_bytes()] {
            mac.update(part);
        }
        let signature = format!("v1,{}", hex(&mac.finalize().into_bytes()));
        let request = client
            .post(&url)
            .header("content-type", "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", &timestamp)
            .header("webhook-signature", signature)
            .body(body);
        let reply = request.send().await.with_context(|| format!("POST {url}"))?;
        ensure!(reply.status().is_success(), "{url} answered {}", reply.status());
        reply.bytes().await.with_context(|| format!("POST {url}"))?;
        sent += 1;
    }
    Ok(sent)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
