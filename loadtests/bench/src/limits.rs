//! `limits`: rate limits over several processes of the role `ingest`, under even load above the limit.
//!
//! Each request is one that a handler refuses after it was counted, so that neither Kafka nor the view is under load:
//! 429 means over the limit, every other status means admitted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use loadkit::Failure;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cli::LimitsArgs;
use crate::connection::Connection;
use crate::control_client::ControlClient;
use crate::instance::Instance;
use crate::target::Target;

const MINUTE: Duration = Duration::from_secs(60);
/// Requests per second that one connection is used for.
const PER_CONNECTION: u32 = 50;
const TOO_MANY_REQUESTS: u16 = 429;
/// What the issue asks for, in percent of the limit.
const MOST_PERCENT: f64 = 105.0;
const LEAST_PERCENT: f64 = 90.0;

/// Measures each limit after the other. Returns whether all were kept.
pub(crate) async fn run(target: &Target, arguments: &LimitsArgs) -> Result<bool, Failure> {
    let mut instances = Vec::new();
    for _ in 0..arguments.processes {
        instances.push(Instance::start(target, &arguments.triggers, &[]).await?);
    }
    println!("per minute | admitted | most in 60 s | share of even load | leases per request | tokens given back");
    let mut is_kept = true;
    for limit in &arguments.limits {
        let figures = measure(target, &instances, *limit, arguments).await?;
        println!("{}", figures.line());
        is_kept &= figures.most_percent() <= MOST_PERCENT && figures.share_percent() >= LEAST_PERCENT;
    }
    Ok(is_kept)
}

async fn sum(instances: &[Instance], name: &str) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for instance in instances {
        sum += instance.counter(name).await?;
    }
    Ok(sum)
}

#[derive(Deserialize)]
struct Created {
    id: String,
}

/// A key of a new organization with this limit.
async fn key_with_limit(target: &Target, control: &ControlClient, limit: u32) -> anyhow::Result<String> {
    let Some(token) = &target.operator_token else { bail!("no operator token") };
    let organization = json!({"name": format!("limit {limit}"), "tier": "free", "rate_limit_per_minute": limit});
    let created: Created = control.post("/v1/organizations", token, &organization).await?;
    let key = json!({"name": "bench limits", "role": "produce"});
    let key: Value = control.post(&format!("/v1/organizations/{}/keys", created.id), token, &key).await?;
    Ok(key["key"].as_str().context("the answer has no key")?.to_owned())
}

/// What one limit did.
#[derive(Debug, Default)]
struct Figures {
    limit: u32,
    sent: usize,
    /// When each admitted request was answered, ascending.
    admitted: Vec<Duration>,
    time: Duration,
    leases: f64,
    returned: f64,
}

impl Figures {
    fn most_percent(&self) -> f64 {
        percent(most_within(&self.admitted, MINUTE) as f64, f64::from(self.limit))
    }

    /// Of what the limit allows in the whole time.
    fn share_percent(&self) -> f64 {
        percent(self.admitted.len() as f64, f64::from(self.limit) * self.time.as_secs_f64() / MINUTE.as_secs_f64())
    }

    fn line(&self) -> String {
        format!(
            "{:>10} | {:>8} | {:>10.1} % | {:>16.1} % | {:>18.4} | {:>17}",
            self.limit,
            self.admitted.len(),
            self.most_percent(),
            self.share_percent(),
            self.leases / self.sent.max(1) as f64,
            self.returned
        )
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    100.0 * part / whole
}

/// The most times within any span of this length. `times` ascend.
fn most_within(times: &[Duration], span: Duration) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, time) in times.iter().enumerate() {
        while *time >= times[first] + span {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

async fn measure(
    target: &Target,
    instances: &[Instance],
    limit: u32,
    arguments: &LimitsArgs,
) -> anyhow::Result<Figures> {
    let first = instances.first().context("no processes")?;
    let key: Arc<str> = key_with_limit(target, &first.control, limit).await?.into();
    let count = || async {
        let leases = sum(instances, "triggers_rate_limit_leases_total").await?;
        anyhow::Ok((leases, sum(instances, "triggers_rate_limit_tokens_returned_total").await?))
    };
    let before = count().await?;
    let per_minute = limit.saturating_mul(arguments.load_percent) / 100;
    let processes = u32::try_from(instances.len()).unwrap_or(1);
    let connections = (per_minute / 60 / processes).div_ceil(PER_CONNECTION).max(1);
    let load = Load { per_minute, time: arguments.time, start: Instant::now(), step: processes * connections };
    let mut senders = JoinSet::new();
    for number in 0..load.step {
        let address = &instances[number as usize % instances.len()].address;
        senders.spawn(load.send(number, address.authority.clone(), Arc::clone(&key)));
    }
    let mut figures = Figures { limit, time: arguments.time, ..Figures::default() };
    while let Some(sent) = senders.join_next().await {
        for (at, is_admitted) in sent?? {
            figures.sent += 1;
            if is_admitted {
                figures.admitted.push(at);
            }
        }
    }
    figures.admitted.sort_unstable();
    let after = count().await?;
    (figures.leases, figures.returned) = (after.0 - before.0, after.1 - before.1);
    Ok(figures)
}

/// Requests at even distances. Each connection sends every `step`-th.
#[derive(Clone, Copy)]
struct Load {
    per_minute: u32,
    time: Duration,
    start: Instant,
    step: u32,
}

impl Load {
    fn due(&self, number: u32) -> Duration {
        MINUTE.mul_f64(f64::from(number) / f64::from(self.per_minute))
    }

    /// Sends the requests of one connection. Returns when each was answered, and whether it was admitted.
    async fn send(self, first: u32, authority: String, key: Arc<str>) -> anyhow::Result<Vec<(Duration, bool)>> {
        let request = format!(
            "POST /v1/events HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        let mut connection = Connection::open(&authority).await?;
        let mut answers = Vec::new();
        let mut number = first;
        while self.due(number) < self.time {
            tokio::time::sleep_until((self.start + self.due(number)).into()).await;
            let reply = connection.exchange(request.as_bytes()).await?;
            ensure!(matches!(reply.status, 400 | TOO_MANY_REQUESTS), "unexpected status {}", reply.status);
            answers.push((self.start.elapsed(), reply.status != TOO_MANY_REQUESTS));
            if !reply.reusable {
                connection = Connection::open(&authority).await?;
            }
            number += self.step;
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_in_any_span_is_found() {
        let seconds = |list: &[u64]| list.iter().copied().map(Duration::from_secs).collect::<Vec<_>>();
        assert_eq!(most_within(&[], MINUTE), 0);
        assert_eq!(most_within(&seconds(&[0, 59, 60, 61]), MINUTE), 3, "60 s later is another span");
        assert_eq!(most_within(&seconds(&[0, 0, 100, 101, 102, 300]), MINUTE), 3);
    }

    #[test]
    fn the_share_is_of_what_the_whole_time_allows() {
        let admitted = vec![Duration::ZERO; 195];
        let figures = Figures { limit: 100, admitted, time: Duration::from_secs(130), ..Figures::default() };
        assert!((figures.share_percent() - 90.0).abs() < 0.001);
        assert!((figures.most_percent() - 195.0).abs() < 0.001);
    }
}
