//! Role `ingest`: the HTTP API, with the routes of all crates on one server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use dispatcher::{EndpointArgs, EndpointSettings};
use http_server::Routes;
use ingest::IngestState;
use kafka::producer::ProducerSettings;
use kafka::read_your_writes::RecentWrites;
use materializer::InboxState;
use runtime::config::{FlagParser, secret};
use runtime::health::Health;
use runtime::lifecycle::Supervisor;
use runtime::postgres;
use runtime::seal::SealingKey;
use runtime::telemetry::logs;
use tenancy::{Tenancy, TenancyConfig};
use tokio::net::TcpListener;

use super::api_description::api_description;
use super::http::MIB;
use super::probes::{probe_kafka, probe_postgres, serve_health, service_info};
use super::schema::check_schema;
use super::topics::check_topics;
use super::{Connections, HttpArgs, HttpOptions, RoleArgs, SealingArgs, bind};

/// Options of `triggers ingest`.
#[derive(Args)]
pub(crate) struct IngestArgs {
    /// Address of the API
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Bearer token of the operator's routes; without it, nobody can use them
    #[arg(long, env = "OPERATOR_TOKEN", hide_env_values = true, value_parser = secret)]
    operator_token: Option<String>,
    /// Development keys, KEY[=ORGANIZATION NAME], comma-separated; allowed only if the API listens on loopback
    #[arg(long, env = "DEV_API_KEYS", hide_env_values = true, value_parser = secret)]
    dev_api_keys: Option<String>,
    /// Let anybody create an organization
    #[arg(long, env = "OPEN_SIGNUP", value_parser = FlagParser)]
    open_signup: bool,
    /// Address for health and metrics
    #[arg(long, env = "METRICS_LISTEN", default_value = "127.0.0.1:9090", value_name = "HOST:PORT")]
    metrics_listen: SocketAddr,
    /// Allow OPEN_SIGNUP although the API does not listen on loopback; every organization then gets the tier free
    #[arg(long, env = "OPEN_SIGNUP_PUBLIC", value_parser = FlagParser)]
    open_signup_public: bool,
    /// Sign-ups of one address per hour; loopback is not limited
    #[arg(long, env = "SIGNUPS_PER_HOUR", default_value_t = tenancy::SIGNUPS_PER_HOUR,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    signups_per_hour: u32,
    #[command(flatten)]
    role: RoleArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    sealing: SealingArgs,
    #[command(flatten)]
    tuning: TuningArgs,
    #[command(flatten)]
    endpoints: EndpointArgs,
}

impl IngestArgs {
    /// What is safe only on loopback is refused elsewhere.
    fn check(&self, on_loopback: bool) -> Result<()> {
        ensure!(
            self.tuning.max_concurrent_events_per_organization_mib <= self.tuning.max_concurrent_events_mib,
            "MAX_CONCURRENT_EVENTS_PER_ORGANIZATION_MIB must not exceed MAX_CONCURRENT_EVENTS_MIB"
        );
        if let Some(token) = &self.operator_token {
            tenancy::check_operator_token(token, on_loopback).context("OPERATOR_TOKEN")?;
        }
        if self.open_signup && !self.open_signup_public && !on_loopback {
            bail!("OPEN_SIGNUP lets anybody who reaches this API create organizations; set OPEN_SIGNUP_PUBLIC as well");
        }
        Ok(())
    }
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
    /// Memory for events in flight to Kafka, MiB
    #[arg(long, env = "MAX_CONCURRENT_EVENTS_MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(2..=65_536))]
    max_concurrent_events_mib: u64,
    /// The part of it that the events of one organization may use, MiB
    #[arg(long, env = "MAX_CONCURRENT_EVENTS_PER_ORGANIZATION_MIB", default_value_t = 32,
          value_parser = clap::value_parser!(u64).range(2..=65_536))]
    max_concurrent_events_per_organization_mib: u64,
    /// How long an event waits for Kafka's confirmation, milliseconds
    #[arg(long, env = "ACCEPT_TIMEOUT_MS", default_value_t = 5_000,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    accept_timeout_ms: u64,
    /// How long events may wait for Kafka's confirmation under overload, milliseconds: above it for more than half a
    /// second, POST answers 503
    #[arg(long, env = "MAX_STANDING_WAIT_MS", default_value_t = 500,
          value_parser = clap::value_parser!(u64).range(10..=60_000))]
    max_standing_wait_ms: u64,
    /// How long the producer waits for more events for a batch, milliseconds
    #[arg(long, env = "KAFKA_LINGER_MS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    kafka_linger_ms: u32,
    /// Whether requests over the rate limit of their organization or key are refused; off only for comparisons
    #[arg(long, env = "RATE_LIMITS", value_enum, default_value_t = RateLimits::On)]
    rate_limits: RateLimits,
    /// Entries of the audit log of an organization: so many of its keys, and as many of the operator; oldest go first
    #[arg(long, env = "AUDIT_ENTRIES", default_value_t = tenancy::audit::AUDIT_ENTRIES,
          value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    audit_entries: u32,
}

/// Not a flag: an empty variable must not turn limits off.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RateLimits {
    On,
    Off,
}

impl TuningArgs {
    fn producer(&self) -> ProducerSettings {
        ProducerSettings {
            linger_ms: self.kafka_linger_ms,
            delivery_timeout: Duration::from_millis(self.accept_timeout_ms),
            max_in_flight: self.max_concurrent_events as usize,
            max_in_flight_per_partition: self.max_concurrent_events_per_partition as usize,
            max_in_flight_bytes: self.max_concurrent_events_mib * MIB,
            max_in_flight_bytes_per_key: self.max_concurrent_events_per_organization_mib * MIB,
            max_standing_wait: Duration::from_millis(self.max_standing_wait_ms),
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
    pub signups_per_hour: u32,
    pub tuning: TuningArgs,
    pub endpoints: EndpointSettings,
    pub http: HttpOptions,
    /// Whether the API serves `/metrics`, too, because it has no other port.
    pub with_metrics: bool,
}

/// Runs the role as its own process.
pub(crate) async fn main(args: IngestArgs) -> Result<()> {
    logs::init("ingest", args.role.process.log_format);
    let listener = bind(args.listen).await?;
    let metrics = bind(args.metrics_listen).await?;
    let mut supervisor = args.role.supervisor(&Health::new());
    let connections = Connections::from_args(&args.role)?;
    if let Some(keys) = &args.dev_api_keys {
        tenancy::check_dev_keys(keys, listener.local_addr()?.ip().is_loopback()).context("DEV_API_KEYS")?;
    }
    args.check(listener.local_addr()?.ip().is_loopback())?;
    let deadline = args.role.process.shutdown_deadline();
    let api = ApiServer {
        connections,
        sealing: args.sealing.load()?,
        operator_token: args.operator_token,
        dev_api_keys: args.dev_api_keys,
        open_signup: args.open_signup,
        signups_per_hour: args.signups_per_hour,
        tuning: args.tuning,
        endpoints: args.endpoints.settings()?,
        http: args.http.options()?,
        with_metrics: false,
    };
    // After all options: Kafka and PostgreSQL may take long to answer, or not answer at all.
    check_topics(&args.role.kafka, &api.connections.kafka).await?;
    serve_health(&mut supervisor, metrics, "ingest", args.role.process.prometheus_enabled);
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
        let HttpOptions { server: settings, mount, budgets, docs } = self.http;
        let on_loopback = listener.local_addr()?.ip().is_loopback();
        let signups_per_hour = self.signups_per_hour;
        let mut config = TenancyConfig {
            on_loopback,
            signups_per_hour,
            budgets,
            audit_entries: self.tuning.audit_entries,
            set_default_endpoint: Some(dispatcher::default_endpoint(self.sealing.clone(), self.endpoints.clone())),
            ..TenancyConfig::new(self.operator_token, self.open_signup)
        };
        config.limits.enabled = self.tuning.rate_limits == RateLimits::On;
        dispatcher::append_system_events(supervisor, pool.clone(), producer.clone(), kafka.topics.events.clone());
        let tenancy = Tenancy::start(supervisor, pool.clone(), self.sealing.clone(), config);
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
        // One pool for both: their settings are the same.
        let read_pool = postgres::with_settings(&pool, tenancy::READ_SETTINGS);
        let deliveries_pool = read_pool.clone();
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
        let deliveries = dispatcher::delivery_routes(
            authenticator.clone(),
            deliveries_pool,
            self.sealing.clone(),
            self.endpoints.open_limits,
        );
        let endpoints = dispatcher::routes(authenticator, pool, self.sealing, self.endpoints);
        let api = Routes::default()
            .merge(ingest::routes(ingest))
            .merge(materializer::routes(inbox))
            .merge(endpoints)
            .merge(deliveries)
            .merge(tenancy::routes(tenancy));
        let mut router = http_server::mount(api, mount)
            .merge(http_server::probe_routes(service_info("ingest"), supervisor.health().clone()));
        if docs {
            router = router.merge(http_server::description_routes(&api_description()));
        }
        if self.with_metrics {
            router = router.merge(http_server::metrics_route());
        }
        probe_kafka(supervisor, &producer, vec![kafka.topics.events, kafka.topics.acks]);
        // Optional for readiness: without PostgreSQL, events with cached API keys are still accepted, so this process
        // must still get requests.
        let postgres = supervisor.health().optional("postgres");
        probe_postgres(supervisor, probe_pool, postgres);
        let server = http_server::serve(listener, router, settings, supervisor.shutdown());
        supervisor.spawn("http", async move {
            let outcome = server.await;
            // Events of clients that disconnected before Kafka confirmed them.
            producer.flush(Duration::from_secs(5)).await;
            Ok(outcome?)
        });
        Ok(organization.map(|id| id.to_string()))
    }
}
