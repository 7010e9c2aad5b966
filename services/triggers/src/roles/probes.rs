//! Probes of Kafka and PostgreSQL for `/health`, and the HTTP server of roles that serve nothing else.

use std::time::Duration;

use http_server::{ServerLimits, ServerSettings, ServiceInfo};
use kafka::producer::{Producer, PublishError};
use runtime::health::Component;
use runtime::lifecycle::Supervisor;
use runtime::postgres::explain;
use sqlx::postgres::PgPool;
use tokio::net::TcpListener;

/// Queries the leaders of the topics that `producer` writes, and reports to the component `kafka` whether they answer.
pub(super) fn probe_kafka(supervisor: &mut Supervisor, producer: &Producer, topics: Vec<String>) {
    let (producer, kafka) = (producer.clone(), supervisor.health().component("kafka"));
    let shutdown = supervisor.shutdown();
    supervisor.spawn("kafka probe", async move {
        let report = |answer: Result<(), PublishError>| match answer {
            Ok(()) => kafka.report_healthy(),
            Err(error) => kafka.report_unhealthy(error.to_string()),
        };
        producer.keep_warm(&topics, report, shutdown).await;
        Ok(())
    });
}

/// Reports to `postgres` every two seconds whether the database answers.
pub(super) fn probe_postgres(supervisor: &mut Supervisor, pool: PgPool, postgres: Component) {
    const INTERVAL: Duration = Duration::from_secs(2);
    let shutdown = supervisor.shutdown();
    supervisor.spawn("postgres probe", async move {
        loop {
            match sqlx::query("SELECT 1").execute(&pool).await {
                Ok(_) => postgres.report_healthy(),
                Err(error) => postgres.report_unhealthy(explain(&error)),
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    });
}

/// Serves health and, unless they are switched off, metrics.
pub(super) fn serve_health(supervisor: &mut Supervisor, listener: TcpListener, role: &'static str, with_metrics: bool) {
    let mut router = http_server::probe_routes(service_info(role), supervisor.health().clone());
    if with_metrics {
        router = router.merge(http_server::metrics_route());
    }
    let server =
        http_server::serve(listener, router, ServerSettings::new(ServerLimits::default()), supervisor.shutdown());
    supervisor.spawn("health", async move { Ok(server.await?) });
}

/// What `/status` reports about this process.
pub(super) fn service_info(role: &'static str) -> ServiceInfo {
    ServiceInfo::new("triggers", role, env!("CARGO_PKG_VERSION"))
}
