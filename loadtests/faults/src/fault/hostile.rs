//! An organization whose endpoints hang, or whose names have a dead name server. Nobody else's webhooks may be delayed,
//! those of a name that is looked up among them.

use std::time::Instant;

use anyhow::Context as _;
use devstack::testing::name_server::NameServer;
use serde_json::json;

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, RedeliveryPolicy};
use super::receivers::check_isolation;
use crate::receiver::ReceiverBehavior;
use crate::system::System;
use loadkit::Role;

/// Far more than the slots and look-ups that an organization may have.
const ENDPOINTS: usize = 60;
/// Events for each of them.
const EVENTS_PER_SECOND: u32 = 10;
const ENDPOINT_TIMEOUT_SECONDS: u32 = 30;

/// Zones of the suite's name server: 127.0.0.1, and no answer.
const LIVE_ZONE: &str = "live.test";
const DEAD_ZONE: &str = "dead.test";

pub(super) const ALL: &[&dyn Fault] = &[
    &Hostile {
        info: FaultInfo::new("hostile-hangs", "an organization with 60 endpoints that hang"),
        kind: Kind::Hangs,
    },
    &Hostile {
        info: FaultInfo::new("hostile-names", "an organization with 60 names whose name server is dead"),
        kind: Kind::DeadNames,
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hangs,
    DeadNames,
}

struct Hostile {
    info: FaultInfo,
    kind: Kind,
}

/// An organization that the fault makes.
struct Organization {
    key: String,
    endpoint_ids: Vec<String>,
}

impl Hostile {
    async fn attack(&self, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
        let system = context.system;
        let mut failures = Vec::new();
        let name_server = NameServer::start().await?;
        if self.kind == Kind::DeadNames {
            let address = name_server.address().to_string();
            let options = [("WEBHOOK_NAME_SERVERS", address.as_str())];
            failures.extend(system.fleet.restart_in_turn(Role::Dispatcher, &options).await?);
        }
        let started = Instant::now();
        let round = format!("hostile-{}", context.pick);
        let neighbour = self.neighbour(context, &round).await?;
        let hostile = self.hostile(context, &round).await?;
        let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1) / EVENTS_PER_SECOND);
        while started.elapsed() < context.timing.condition {
            ticks.tick().await;
            for organization in [&neighbour, &hostile] {
                let body = json!({"event_type": "fault.hostile", "payload": {"tag": round, "org": uuid::Uuid::nil()}});
                let (status, answer) = system.api.post("/v1/events", &organization.key, body.to_string(), None).await?;
                anyhow::ensure!(
                    status == 201,
                    "POST /v1/events answered {status}: {}",
                    String::from_utf8_lossy(&answer)
                );
            }
        }
        let mut healthy: Vec<String> = context.tenants.iter().flat_map(|tenant| tenant.endpoints.clone()).collect();
        healthy.push(format!("{round}-neighbour"));
        failures.extend(check_isolation(&system.receiver, &healthy, started, Instant::now()));
        let was_hit = match self.kind {
            Kind::Hangs => system.receiver.was_called_while_faulty(&format!("{round}-0")),
            // Nothing arrives; the attempts are reported when the look-ups are given up.
            Kind::DeadNames => true,
        };
        let no_effect = (!was_hit).then(|| "no endpoint of the hostile organization got a request".to_owned());
        for organization in [neighbour, hostile] {
            for id in organization.endpoint_ids {
                system.api.delete(&format!("/v1/endpoints/{id}"), &organization.key).await?;
            }
        }
        Ok(Injection { failures, no_effect: no_effect.into_iter().collect(), ..context.injected_since(started) })
    }

    /// One good endpoint, by name where names are attacked.
    async fn neighbour(&self, context: &InjectionContext<'_>, round: &str) -> anyhow::Result<Organization> {
        let system = context.system;
        let mut organization = create(system, &format!("{round} neighbour")).await?;
        let name = format!("{round}-neighbour");
        let url = match self.kind {
            Kind::Hangs => system.receiver.url(&name),
            Kind::DeadNames => system.receiver.url_of_host(&format!("good.{LIVE_ZONE}"), &name),
        };
        organization.add_endpoint(system, &name, &url).await?;
        Ok(organization)
    }

    async fn hostile(&self, context: &InjectionContext<'_>, round: &str) -> anyhow::Result<Organization> {
        let system = context.system;
        let mut organization = create(system, round).await?;
        for number in 0..ENDPOINTS {
            let name = format!("{round}-{number}");
            let url = match self.kind {
                Kind::Hangs => system.receiver.url(&name),
                Kind::DeadNames => system.receiver.url_of_host(&format!("n{number}.{DEAD_ZONE}"), &name),
            };
            system.receiver.set_behavior(std::slice::from_ref(&name), ReceiverBehavior::Hangs);
            organization.add_endpoint(system, &name, &url).await?;
        }
        Ok(organization)
    }
}

async fn create(system: &System, name: &str) -> anyhow::Result<Organization> {
    let (_, key) = system.create_organization(name).await?;
    Ok(Organization { key, endpoint_ids: Vec::new() })
}

impl Organization {
    async fn add_endpoint(&mut self, system: &System, name: &str, url: &str) -> anyhow::Result<()> {
        let endpoint = json!({"url": url, "retry_schedule": [1], "timeout_seconds": ENDPOINT_TIMEOUT_SECONDS});
        let created = system.api.create("/v1/endpoints", &self.key, &endpoint).await?;
        let text = |field: &str| created[field].as_str().map(str::to_owned).context("the reply has no id or secret");
        system.receiver.register(name, text("secret")?);
        self.endpoint_ids.push(text("id")?);
        Ok(())
    }
}

impl Fault for Hostile {
    fn info(&self) -> FaultInfo {
        self.info
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection> {
        Box::pin(self.attack(context))
    }

    /// Restarts the dispatchers with the system's name servers.
    fn clean_up<'a>(&'a self, system: &'a System) -> FaultFuture<'a, Vec<String>> {
        Box::pin(async move {
            match self.kind {
                Kind::Hangs => Ok(Vec::new()),
                Kind::DeadNames => system.fleet.restart_in_turn(Role::Dispatcher, &[]).await,
            }
        })
    }

    fn rebalances(&self) -> Option<Role> {
        (self.kind == Kind::DeadNames).then_some(Role::Dispatcher)
    }

    /// Dispatchers that are restarted hand over their partitions cleanly.
    fn redelivery_allowed(&self, _injection: &Injection) -> RedeliveryPolicy {
        match self.kind {
            Kind::Hangs => RedeliveryPolicy::IfDispatchersRebalanced,
            Kind::DeadNames => RedeliveryPolicy::Never,
        }
    }
}
