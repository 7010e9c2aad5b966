//! `triggers replay`, and the commands of endpoints that start replays.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use schemas::ids::{EndpointId, ReplayId};
use serde_json::{Value, json};

use super::print;
use super::progress::ProgressDisplay;
use crate::client::{Client, Credential};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Options of `triggers replay`.
#[derive(Args)]
pub(crate) struct ReplayArgs {
    #[command(subcommand)]
    action: ReplayAction,
}

#[derive(Subcommand)]
enum ReplayAction {
    /// Show how far a replay is
    Show {
        /// Id of the replay
        id: ReplayId,
        /// Show the progress until it has ended
        #[arg(long)]
        wait: bool,
    },
    /// Cancel a replay: it schedules nothing more
    Cancel {
        /// Id of the replay
        id: ReplayId,
    },
}

pub(super) async fn run(client: &Client, args: ReplayArgs) -> Result<()> {
    match args.action {
        ReplayAction::Show { id, wait: true } => wait(client, id, 0).await,
        ReplayAction::Show { id, wait: false } => print::json(&read(client, id).await?),
        ReplayAction::Cancel { id } => {
            client.execute(client.request(Credential::ApiKey, Method::DELETE, &path(id))?).await?;
            print::json(&read(client, id).await?)
        }
    }
}

/// What to replay, by time and type.
#[derive(Args)]
pub(super) struct Range {
    /// Only from this time on, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only before this time; default: now
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only events of this type; repeatable
    #[arg(long = "event-type", value_name = "TYPE")]
    event_types: Vec<String>,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
}

impl Range {
    fn body(&self, only: &str) -> Value {
        let mut body = json!({"only": only, "event_types": self.event_types});
        for (name, time) in [("from", &self.from), ("to", &self.to)] {
            if let Some(time) = time {
                body[name] = json!(time);
            }
        }
        body
    }
}

/// Which events to replay.
#[derive(Args)]
pub(super) struct EventSelection {
    /// missing: events without a delivery to the endpoint; all: all events; failed: deliveries that failed
    #[arg(long, default_value = "missing", value_parser = ["missing", "all", "failed"])]
    only: String,
    #[command(flatten)]
    range: Range,
    /// Only the event with this position, and those after it
    #[arg(long, value_name = "POSITION", conflicts_with = "from")]
    from_position: Option<String>,
    /// Show the progress until everything is scheduled
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

/// Retries failed deliveries, and waits until all are scheduled.
pub(super) async fn retry(client: &Client, endpoint: EndpointId, range: &Range) -> Result<()> {
    let path = format!("/v1/endpoints/{endpoint}/retry");
    let body = range.body("failed");
    start(client, &path, body, range.dry_run, true).await
}

/// Replays events.
pub(super) async fn replay(client: &Client, endpoint: EndpointId, selection: &EventSelection) -> Result<()> {
    let path = format!("/v1/endpoints/{endpoint}/replay");
    let mut body = selection.range.body(&selection.only);
    if let Some(position) = &selection.from_position {
        body["from_position"] = json!(position);
    }
    start(client, &path, body, selection.range.dry_run, selection.wait).await
}

/// Starts a replay, or counts what it would take.
async fn start(client: &Client, path: &str, mut body: Value, dry_run: bool, waits: bool) -> Result<()> {
    let post = async |body: &Value| -> Result<Value> {
        client.fetch(client.request(Credential::ApiKey, Method::POST, path)?.json(body)).await
    };
    let mut expected = 0;
    if dry_run || waits {
        body["dry_run"] = json!(true);
        let counted = post(&body).await?;
        if dry_run {
            return print::json(&counted);
        }
        expected = counted["matched"].as_u64().unwrap_or(0);
    }
    body["dry_run"] = json!(false);
    let started = post(&body).await?;
    if !waits {
        return print::json(&started);
    }
    let Some(id) = started["replay_id"].as_str().and_then(|id| id.parse().ok()) else {
        bail!("the answer has no replay_id: {started}")
    };
    wait(client, id, expected).await
}

/// Shows the progress of a replay until it has ended. `expected`: how many deliveries it will take, if that is known.
async fn wait(client: &Client, id: ReplayId, expected: u64) -> Result<()> {
    let progress = ProgressDisplay::new("deliveries scheduled")?;
    let mut waits_for = Value::Null;
    loop {
        let replay = read(client, id).await?;
        let matched = replay["matched"].as_u64().unwrap_or(0);
        progress.show(matched, expected.max(matched));
        if replay["waits_for"] != waits_for {
            waits_for = replay["waits_for"].clone();
            if let Some(reason) = waits_for.as_str().and_then(reason) {
                progress.print_line(reason);
            }
        }
        if replay["status"] != "running" {
            progress.finish();
            return print::json(&replay);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn reason(waits_for: &str) -> Option<&'static str> {
    match waits_for {
        "log" => Some("waiting until it is known which events have a delivery"),
        "open_deliveries" => Some("waiting until the organization has fewer open deliveries"),
        _ => None,
    }
}

async fn read(client: &Client, id: ReplayId) -> Result<Value> {
    client.fetch(client.request(Credential::ApiKey, Method::GET, &path(id))?).await
}

fn path(id: ReplayId) -> String {
    format!("/v1/replays/{id}")
}
