//! `triggers doctor`: checks tools, Kafka, PostgreSQL, topics, schema and positions. It prints one line for each check,
//! and what to do if it fails.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use kafka::config::KafkaArgs;
use kafka::fence::repair;
use kafka::{KafkaConfig, positions, topics};
use materializer::rebuild::REPLAY;
use runtime::config::PostgresArgs;
use runtime::http_client;
use runtime::postgres;

use super::print;
use crate::local_system::LocalSystemArgs;

/// Oldest supported major version of PostgreSQL.
const MIN_POSTGRES: i32 = 15;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Options of `triggers doctor`.
#[derive(Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    local: LocalSystemArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
}

/// Prints the result of each check and counts the failures.
#[derive(Default)]
struct Findings {
    failures: usize,
}

impl Findings {
    fn ok(&self, check: &str, detail: impl Display) -> Result<()> {
        print::line(&format!("ok    {check}: {detail}"))
    }

    fn fail(&mut self, check: &str, reason: impl Display, advice: &str) -> Result<()> {
        self.failures += 1;
        print::line(&format!("FAIL  {check}: {reason}\n      {advice}"))
    }
}

pub(super) async fn run(args: DoctorArgs) -> Result<()> {
    let mut findings = Findings::default();
    check_tools(&mut findings).await?;
    let kafka = args.local.kafka(&args.kafka)?;
    let postgres = args.local.postgres(&args.postgres)?;
    match args.local.dev_json() {
        Ok(dev) => {
            findings.ok("local system", format!("dev.json names {}", dev.base_url))?;
            check_api(&mut findings, &dev.base_url).await?;
        }
        Err(_) => findings.ok(
            "local system",
            "none runs here; checking the Kafka and PostgreSQL that options, variables or defaults name",
        )?,
    }
    check_topics(&mut findings, &args.kafka, &kafka).await?;
    check_database(&mut findings, &postgres).await?;
    check_positions(&mut findings, &kafka, &postgres).await?;
    match findings.failures {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        failures => bail!("{failures} checks failed"),
    }
}

/// Checks the tools that `triggers up` needs. A system on an existing Kafka and PostgreSQL needs none of them.
async fn check_tools(findings: &mut Findings) -> Result<()> {
    // Blocks: it runs each tool once.
    for check in tokio::task::spawn_blocking(devstack::tools::check_all).await? {
        match check.found {
            Ok(found) => findings.ok(check.tool, found)?,
            Err(error) => findings.fail(check.tool, error, "Only `triggers up` needs it. Install it: make tools")?,
        }
    }
    Ok(())
}

async fn check_api(findings: &mut Findings, base_url: &str) -> Result<()> {
    let client = http_client::builder(base_url).timeout(TIMEOUT).build()?;
    match client.get(format!("{base_url}/health/ready")).send().await {
        Ok(response) if response.status().is_success() => findings.ok("API", "ready"),
        Ok(response) => {
            let reason = format!("not ready (HTTP {})", response.status().as_u16());
            let advice =
                format!("Find the unhealthy component: curl {base_url}/health/detailed. The reason is in the log.");
            findings.fail("API", reason, &advice)
        }
        Err(error) => findings.fail("API", error.without_url(), "Start it: triggers up"),
    }
}

async fn check_topics(findings: &mut Findings, args: &KafkaArgs, kafka: &KafkaConfig) -> Result<()> {
    match topics::plan(kafka, &kafka.topics.manifest(args.topic_partitions), args.replication()).await {
        Ok(differences) if differences.is_empty() => {
            findings.ok("Kafka", format!("{} answers, all topics match the manifest", kafka.brokers))
        }
        Ok(differences) => {
            for difference in differences {
                findings.fail("topics", difference, "Run: triggers topics apply")?;
            }
            Ok(())
        }
        Err(error) => findings.fail(
            "Kafka",
            format!("{}: {error}", kafka.brokers),
            "Start Kafka, or set KAFKA_BROKERS to its address.",
        ),
    }
}

async fn check_database(findings: &mut Findings, config: &postgres::PostgresConfig) -> Result<()> {
    let pool = match postgres::connect(config) {
        Ok(pool) => pool,
        Err(error) => {
            return findings.fail(
                "PostgreSQL",
                error,
                "Set DATABASE_URL to a URL like postgres://user:password@host:port/database.",
            );
        }
    };
    if let Err(reason) = postgres::check_connection(&pool).await {
        return findings.fail(
            "PostgreSQL",
            reason,
            "Start PostgreSQL, repair what it reports, or set DATABASE_URL to its address.",
        );
    }
    let version: Result<i32, sqlx::Error> =
        sqlx::query_scalar("SELECT current_setting('server_version_num')::integer / 10000").fetch_one(&pool).await;
    match version {
        Ok(major) if major < MIN_POSTGRES => {
            let advice = format!("Upgrade PostgreSQL to version {MIN_POSTGRES} or newer.");
            findings.fail("PostgreSQL", format!("version {major}"), &advice)?;
        }
        Ok(major) => findings.ok("PostgreSQL", format!("version {major} answers"))?,
        Err(error) => {
            return findings.fail("PostgreSQL", error, "Start PostgreSQL, or set DATABASE_URL to its address.");
        }
    }
    match postgres::check_schema(&pool).await {
        Ok(version) => findings.ok("schema", format!("version {version}")),
        Err(error) => findings.fail("schema", error, "The roles do not start with it."),
    }
}

/// Reports positions outside of their logs. It ignores other errors: the checks of Kafka, PostgreSQL and the schema
/// have reported them.
async fn check_positions(
    findings: &mut Findings,
    kafka: &KafkaConfig,
    config: &postgres::PostgresConfig,
) -> Result<()> {
    let Ok(pool) = postgres::connect(config) else { return Ok(()) };
    if postgres::check_connection(&pool).await.is_err() {
        return Ok(());
    }
    let Ok(mut stored) = repair::positions(&pool).await else { return Ok(()) };
    stored.retain(|position| position.consumer != REPLAY);
    let Ok(checked) = positions::check(kafka, &stored, TIMEOUT).await else { return Ok(()) };
    let mut outside = 0;
    for (position, state) in stored.iter().zip(&checked) {
        let Some(mismatch) = state.as_ref().ok().and_then(|state| state.mismatch.as_ref()) else { continue };
        outside += 1;
        let reason = format!("{} in {}[{}]: {mismatch}", position.consumer, position.topic, position.partition);
        findings.fail(
            "positions",
            reason,
            "The partition is stopped. See: triggers positions list, then positions repair",
        )?;
    }
    if outside > 0 {
        return Ok(());
    }
    findings.ok(
        "positions",
        format!("{} of {} checked, all inside of their logs", checked.iter().flatten().count(), stored.len()),
    )
}
