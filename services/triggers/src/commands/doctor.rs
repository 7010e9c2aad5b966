//! `triggers doctor`: checks what a system needs, one line per check, and says what to do about each that fails.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use kafka::config::KafkaArgs;
use kafka::fence::repair;
use kafka::{KafkaConfig, positions, topics};
use materializer::rebuild::REPLAY;
use runtime::config::PostgresArgs;
use runtime::postgres;

use super::print;
use crate::local::LocalArgs;

/// Oldest PostgreSQL that is supported.
const MIN_POSTGRES: i32 = 15;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of `triggers doctor`.
#[derive(Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    local: LocalArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
}

/// Counts failures while it prints.
#[derive(Default)]
struct Findings {
    failures: usize,
}

impl Findings {
    fn good(&self, what: &str, how: impl Display) -> Result<()> {
        print::line(&format!("ok    {what}: {how}"))
    }

    fn bad(&mut self, what: &str, why: impl Display, advice: &str) -> Result<()> {
        self.failures += 1;
        print::line(&format!("FAIL  {what}: {why}\n      {advice}"))
    }
}

pub(super) async fn run(args: DoctorArgs) -> Result<()> {
    let mut findings = Findings::default();
    check_tools(&mut findings).await?;
    let kafka = args.local.kafka(&args.kafka)?;
    let postgres = args.local.postgres(&args.postgres)?;
    match args.local.dev_json() {
        Ok(dev) => {
            findings.good("local system", format!("dev.json names {}", dev.base_url))?;
            check_api(&mut findings, &dev.base_url).await?;
        }
        Err(_) => findings.good("local system", "none runs here; checking what flags and variables name")?,
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

/// The tools that `triggers up` needs; a system on an existing Kafka and PostgreSQL needs none of them.
async fn check_tools(findings: &mut Findings) -> Result<()> {
    // Runs each tool once, which blocks.
    for check in tokio::task::spawn_blocking(devstack::tools::check_all).await? {
        match check.found {
            Ok(found) => findings.good(check.tool, found)?,
            Err(error) => findings.bad(check.tool, error, "Needed by `triggers up` only; `make tools` installs it.")?,
        }
    }
    Ok(())
}

async fn check_api(findings: &mut Findings, base_url: &str) -> Result<()> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    match client.get(format!("{base_url}/health/ready")).send().await {
        Ok(response) if response.status().is_success() => findings.good("API", "ready"),
        Ok(response) => {
            let why = format!("not ready (HTTP {})", response.status().as_u16());
            findings.bad(
                "API",
                why,
                &format!("See which part: curl {base_url}/health/detailed, and the log for the reason."),
            )
        }
        Err(error) => findings.bad("API", error.without_url(), "Start it: triggers up"),
    }
}

async fn check_topics(findings: &mut Findings, args: &KafkaArgs, kafka: &KafkaConfig) -> Result<()> {
    match topics::plan(kafka, &kafka.topics.manifest(args.topic_partitions), args.replication()).await {
        Ok(differences) if differences.is_empty() => {
            findings.good("Kafka", format!("{} answers, the topics are as they must be", kafka.brokers))
        }
        Ok(differences) => {
            for difference in differences {
                findings.bad("topics", difference, "Run: triggers topics apply")?;
            }
            Ok(())
        }
        Err(error) => findings.bad(
            "Kafka",
            format!("{}: {error}", kafka.brokers),
            "Start it, or name the right one with KAFKA_BROKERS.",
        ),
    }
}

async fn check_database(findings: &mut Findings, config: &postgres::PostgresConfig) -> Result<()> {
    let pool = match postgres::connect(config) {
        Ok(pool) => pool,
        Err(error) => {
            return findings.bad("PostgreSQL", error, "DATABASE_URL is postgres://user:password@host:port/database.");
        }
    };
    if let Err(why) = postgres::check_connection(&pool).await {
        return findings.bad(
            "PostgreSQL",
            why,
            "Start it, repair what it reports, or name the right one with DATABASE_URL.",
        );
    }
    let version: Result<i32, sqlx::Error> =
        sqlx::query_scalar("SELECT current_setting('server_version_num')::integer / 10000").fetch_one(&pool).await;
    match version {
        Ok(major) if major < MIN_POSTGRES => {
            findings.bad(
                "PostgreSQL",
                format!("version {major}"),
                &format!("Version {MIN_POSTGRES} or newer is needed."),
            )?;
        }
        Ok(major) => findings.good("PostgreSQL", format!("version {major} answers"))?,
        Err(error) => return findings.bad("PostgreSQL", error, "Start it, or name the right one with DATABASE_URL."),
    }
    let newest = schemas::postgres::MIGRATIONS.last().map_or(0, |migration| migration.version);
    let applied: Result<Option<i64>, sqlx::Error> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success").fetch_one(&pool).await;
    match applied {
        Ok(Some(version)) if version == newest => findings.good("schema", format!("version {version}")),
        Ok(Some(version)) if version > newest => {
            findings.bad("schema", format!("version {version}, this binary knows {newest}"), "Use the newer binary.")
        }
        Ok(version) => {
            findings.bad("schema", format!("version {} of {newest}", version.unwrap_or(0)), "Run: triggers migrate")
        }
        Err(_) => findings.bad("schema", "none", "Run: triggers migrate"),
    }
}

/// Positions outside of their logs stop their partitions. That Kafka or PostgreSQL do not answer, or that there is no
/// schema, was reported by now.
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
    let Ok(looked) = positions::check(kafka, &stored, TIMEOUT).await else { return Ok(()) };
    let mut outsiders = 0;
    for (position, state) in stored.iter().zip(&looked) {
        let Some(outside) = state.as_ref().ok().and_then(|state| state.mismatch.as_ref()) else { continue };
        outsiders += 1;
        let why = format!("{} in {}[{}]: {outside}", position.consumer, position.topic, position.partition);
        findings.bad("positions", why, "Its partition is stopped. Decide, and repair it: triggers positions list")?;
    }
    if outsiders > 0 {
        return Ok(());
    }
    findings.good(
        "positions",
        format!("{} of {} are known to be inside of their logs", looked.iter().flatten().count(), stored.len()),
    )
}
