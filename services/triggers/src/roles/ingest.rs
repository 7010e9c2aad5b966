//! Role `ingest`: the HTTP API, with the routes of all crates on one server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use dispatcher::{EgressArgs, EgressPolicy};
use http_server::{MountOptions, Routes, ServerLimits};
use ingest::IngestState;
use kafka::producer::ProducerSettings;
use kafka::read_your_writes::RecentWrites;
use materializer::{InboxState, READ_SETTINGS};
use runtime::config::FlagParser;
use runtime::health::Health;
use runtime::lifecycle::Supervisor;
use runtime::postgres;
use runtime::seal::SealingKey;
use runtime::telemetry::logs;
use tenancy::{Tenancy, TenancyConfig};
use tokio::net::TcpListener;

use super::probes::{probe_kafka, probe_postgres, service_info};
use super::schema::check_schema;
use super::topics::check_topics;
use super::{Connections, RoleArgs, SealingArgs, bind};

/// Options of `triggers ingest`.
#[derive(Args)]
pub(crate) struct IngestArgs {
    /// Address of the API
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Bearer token of the operator's routes; without it, nobody can use them
    #[arg(long, env = "OPERATOR_TOKEN", hide_env_values = true)]
    operator_token: Option<String>,
    /// Development keys, KEY[=ORGANIZATION NAME], comma-separated; allowed only if the API listens on loopback
    #[arg(long, env = "DEV_API_KEYS", hide_env_values = true)]
    dev_api_keys: Option<String>,
    /// Let anybody create an organization
    #[arg(long, env = "OPEN_SIGNUP", value_parser = FlagParser)]
    open_signup: bool,
    #[command(flatten)]
    role: RoleArgs,
    #[command(flatten)]
    sealing: SealingArgs,
    #[command(flatten)]
    tuning: TuningArgs,
    #[command(flatten)]
    egress: EgressArgs,
}

/// Limits and timeouts of accepting events.
#[derive(Args, Clone)]
pub(crate) struct TuningArgs {
    /// Largest number of events in flight to Kafka; above it, POST answers 503
    #[arg(long, env = "MAX_CONCURRENT_EVENTS", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_concurrent_events: u32,
    /// Largest number of events in flight to one partition
    #[arg(long, env = "MAX_CONCURRENT_EVENTS_PER_PARTITION", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_concurrent_events_per_partition: u32,
    /// How long an event waits for Kafka's confirmation, milliseconds
    #[arg(long, env = "ACCEPT_TIMEOUT_MS", default_value_t = 5_000,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    accept_timeout_ms: u64,
    /// How long the producer waits for more events for a batch, milliseconds
    #[arg(long, env = "KAFKA_LINGER_MS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    kafka_linger_ms: u32,
}

impl TuningArgs {
    fn producer(&self) -> ProducerSettings {
        ProducerSettings {
            linger_ms: self.kafka_linger_ms,
            delivery_timeout: Duration::from_millis(self.accept_timeout_ms),
            max_in_flight: self.max_concurrent_events as usize,
            max_in_flight_per_partition: self.max_concurrent_events_per_partition as usize,
        }
    }
}

/// The HTTP API, before it is started.
pub(crate) struct ApiServer {
    pub connections: Connections,
    pub sealing: SealingKey,
    pub operator_token: Option<String>,
    pub dev_api_keys: Option<String>,
    pub open_signup: bool,
    pub tuning: TuningArgs,
    /// URLs that an endpoint may have.
    pub egress: EgressPolicy,
}

/// Runs the role as its own process.
pub(crate) async fn main(args: IngestArgs) -> Result<()> {
    logs::init("ingest", args.role.process.log_format);
    let listener = bind(args.listen).await?;
    let mut supervisor = args.role.supervisor(&Health::new());
    let connections = Connections::from_args(&args.role)?;
    if let Some(keys) = &args.dev_api_keys {
        tenancy::check_dev_keys(keys, listener.local_addr()?.ip().is_loopback()).context("DEV_API_KEYS")?;
    }
    let deadline = args.role.process.shutdown_deadline();
    let api = ApiServer {
        connections,
        sealing: args.sealing.load()?,
        operator_token: args.operator_token,
        dev_api_keys: args.dev_api_keys,
        open_signup: args.open_signup,
        tuning: args.tuning,
        egress: args.egress.policy()?,
    };
    // After all options: Kafka and PostgreSQL may take long to answer, or not answer at all.
    check_topics(&args.role.kafka, &api.connections.kafka).await?;
    check_schema(&mut supervisor, api.connections.pool.clone()).await?;
    api.start(&mut supervisor, listener).await?;
    supervisor.run(deadline).await
}

impl ApiServer {
    /// Serves on `listener` under `supervisor`. Returns the id of the first development organization, if there are
    /// development keys.
    pub(crate) async fn start(self, supervisor: &mut Supervisor, listener: TcpListener) -> Result<Option<String>> {
        let producer = self.connections.producer(self.tuning.producer())?;
        let Connections { kafka, pool } = self.connections;
        let config = TenancyConfig::new(self.operator_token, self.open_signup);
        let on_loopback = listener.local_addr()?.ip().is_loopback();
        let tenancy = Tenancy::start(supervisor, pool.clone(), config);
        let organization = match &self.dev_api_keys {
            Some(keys) => tenancy.apply_dev_keys(keys, on_loopback).await.context("DEV_API_KEYS")?,
            None => None,
        };
        let authenticator = tenancy.authenticator();
        let recent_writes = RecentWrites::default();
        let ingest = IngestState::start(
            supervisor,
            authenticator.clone(),
            producer.clone(),
            &kafka.topics.events,
            self.sealing.clone(),
            recent_writes.clone(),
            pool.clone(),
        );
        let read_pool = postgres::with_settings(&pool, READ_SETTINGS);
        let inbox = InboxState::new(
            authenticator.clone(),
            read_pool,
            producer.clone(),
            kafka.topics.clone(),
            self.sealing.clone(),
            recent_writes,
        )
        .until(supervisor.shutdown());
        let probe_pool = pool.clone();
        let endpoints = dispatcher::routes(authenticator, pool, self.sealing, self.egress);
        let api = Routes::default()
            .merge(ingest::routes(ingest))
            .merge(materializer::routes(inbox))
            .merge(endpoints)
            .merge(tenancy::routes(tenancy));
        let router = http_server::mount(api, MountOptions::default())
            .merge(http_server::operational_routes(service_info("ingest"), supervisor.health().clone()));
        probe_kafka(supervisor, &producer, vec![kafka.topics.events, kafka.topics.acks]);
        // Optional for readiness: without PostgreSQL, events with cached API keys are still accepted, so this process
        // must still get requests.
        let postgres = supervisor.health().optional("postgres");
        probe_postgres(supervisor, probe_pool, postgres);
        let server = http_server::serve(listener, router, ServerLimits::default(), supervisor.shutdown());
        supervisor.spawn("http", async move {
            let outcome = server.await;
            // Events of clients that disconnected before Kafka confirmed them.
            producer.flush(Duration::from_secs(5)).await;
            Ok(outcome?)
        });
        Ok(organization.map(|id| id.to_string()))
    }
}
