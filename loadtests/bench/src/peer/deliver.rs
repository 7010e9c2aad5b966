//! How fast a peer posts the records of a topic. The topic is filled before the peer starts, as for the product's S10,
//! and the rate is counted as there: at the receiver, without the first tenth.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use loadkit::RunEnvironment;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Serialize;
use uuid::Uuid;

use super::{components, listed, start};
use crate::cli::PeerArgs;
use crate::deliver::figures::{self, Deliveries};
use crate::deliver::receiver::{Arrival, Receiver};
use crate::process_usage::{self, Component, Usage};
use crate::report;

/// Records in flight while the topic is filled; fewer than the producer's queue holds.
const FILL_CHUNK: u32 = 10_000;
/// Pause between two looks at the receiver.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The peer has failed when nothing arrives for so long. Its first record has to wait for the group to form.
const STALLED: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct DeliverReport {
    name: &'static str,
    environment: RunEnvironment,
    payload_bytes: usize,
    deliveries: Deliveries,
    /// CPU of a delivery in microseconds, by component, without the first tenth. The generator is the receiver.
    cpu_us: BTreeMap<String, f64>,
    passed: bool,
}

/// Fills `topic`, starts the peer, and counts what arrives. Returns whether every record arrived.
pub(super) async fn measure(arguments: &PeerArgs, brokers: &str, topic: &str, folder: &Path) -> anyhow::Result<bool> {
    let mut environment = RunEnvironment::detect();
    eprintln!("writing {} records", arguments.records);
    fill(brokers, topic, arguments.records, arguments.load.payload_bytes.median()).await?;
    let receiver = Receiver::start(Duration::ZERO)?;
    let target = format!("{}/ok/0", receiver.base_url);
    let started = Instant::now();
    let peer = start(arguments, Some((brokers, topic)), &[("PEER_TARGET", target)]).await?;
    environment.versions.extend(peer.version.clone().map(|version| (arguments.name.name().to_owned(), version)));
    let components = components(&peer, Some(brokers));
    let (arrivals, cpu_us) = watch(&receiver, u64::from(arguments.records), &components).await?;
    peer.stop().await?;
    let deliveries = figures::join(u64::from(arguments.records), &[], &arrivals, started, Duration::ZERO);
    let passed = deliveries.missing == 0;
    println!(
        "{}: {:.0} deliveries/s, {} of {} missing, {} repeated",
        arguments.name.name(),
        deliveries.per_second,
        deliveries.missing,
        deliveries.accepted,
        deliveries.repeated
    );
    println!("  CPU of a delivery, us: {}", listed(&cpu_us));
    let name = arguments.name.name();
    let payload_bytes = arguments.load.payload_bytes.median();
    report::write_json(folder, &DeliverReport { name, environment, payload_bytes, deliveries, cpu_us, passed })?;
    println!("report in {}", folder.display());
    Ok(passed)
}

/// Collects arrivals until all records have arrived, or nothing arrives any more.
async fn watch(
    receiver: &Receiver,
    records: u64,
    components: &[Component],
) -> anyhow::Result<(Vec<Arrival>, BTreeMap<String, f64>)> {
    let mut arrivals: Vec<Arrival> = Vec::new();
    // Arrivals and CPU after the first tenth.
    let mut after_tenth: Option<(usize, BTreeMap<String, Usage>)> = None;
    let mut last_arrival = Instant::now();
    while (arrivals.len() as u64) < records && last_arrival.elapsed() < STALLED {
        tokio::time::sleep(LOOK_AGAIN).await;
        let new = receiver.take();
        if !new.is_empty() {
            last_arrival = Instant::now();
            arrivals.extend(new);
        }
        if after_tenth.is_none() && arrivals.len() as u64 >= records / 10 {
            after_tenth = Some((arrivals.len(), process_usage::usage(components)));
        }
    }
    let Some((counted_from, before)) = after_tenth else {
        bail!("{} of {records} records arrived; the peer has stopped delivering", arrivals.len());
    };
    let counted = (arrivals.len() - counted_from) as f64;
    let after = process_usage::usage(components);
    let each = |(name, usage): (&String, &Usage)| {
        let seconds = usage.cpu_seconds - before.get(name).map_or(usage.cpu_seconds, |before| before.cpu_seconds);
        (name.clone(), seconds * 1_000_000.0 / counted)
    };
    Ok((arrivals, after.iter().map(each).collect()))
}

/// Writes `records` records, each with an id as its key.
async fn fill(brokers: &str, topic: &str, records: u32, payload_bytes: usize) -> anyhow::Result<()> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .create()
        .context("creating the producer")?;
    let mut left = records;
    while left > 0 {
        let chunk = left.min(FILL_CHUNK);
        let mut reports = Vec::new();
        for _ in 0..chunk {
            let id = Uuid::now_v7().to_string();
            let empty = format!(r#"{{"event_id":"{id}","data":""}}"#);
            let body =
                format!(r#"{{"event_id":"{id}","data":"{}"}}"#, "x".repeat(payload_bytes.saturating_sub(empty.len())));
            let sent = producer.send_result(FutureRecord::to(topic).key(&id).payload(&body));
            reports.push(sent.map_err(|(error, _)| error).context("filling the topic")?);
        }
        for report in reports {
            let delivered = report.await.context("filling the topic")?;
            delivered.map_err(|(error, _)| error).context("filling the topic")?;
        }
        left -= chunk;
    }
    Ok(())
}
