//! The webhook endpoints of a run: one of each organization, and the bad ones of one further organization.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::receiver::Receiver;
use crate::control_client::ControlClient;
use crate::organizations::Organization;

/// How bad endpoints behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Behaviour {
    /// They never answer.
    Hang,
    /// They send a byte of the answer each second.
    Drip,
}

/// Bad endpoints, all of one organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Bad {
    pub behaviour: Behaviour,
    pub count: u16,
}

impl FromStr for Bad {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: write hang:COUNT or drip:COUNT, with a count of 1 to 1000");
        let (behaviour, count) = text.split_once(':').ok_or_else(wrong)?;
        let behaviour = match behaviour {
            "hang" => Behaviour::Hang,
            "drip" => Behaviour::Drip,
            _ => return Err(wrong()),
        };
        let count = count.parse().ok().filter(|count| (1..=1_000).contains(count)).ok_or_else(wrong)?;
        Ok(Self { behaviour, count })
    }
}

/// Options of every endpoint.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct EndpointOptions {
    /// Attempts at the same time.
    pub max_in_flight: u8,
    /// Events of one webhook; 1 sends single events.
    pub batch_events: u16,
}

#[derive(Deserialize)]
struct Created {
    id: Uuid,
}

/// Endpoints that exist.
pub(crate) struct Endpoints<'a> {
    control: &'a ControlClient,
    created: Vec<(Uuid, String)>,
}

impl<'a> Endpoints<'a> {
    /// Makes one that answers for each organization.
    pub(crate) async fn of_each(
        control: &'a ControlClient,
        organizations: &[Organization],
        receiver: &Receiver,
        options: EndpointOptions,
    ) -> anyhow::Result<Self> {
        let mut endpoints = Self { control, created: Vec::new() };
        for (number, organization) in organizations.iter().enumerate() {
            let url = format!("{}/ok/{number}", receiver.base_url);
            endpoints.create(&organization.key, &url, options).await?;
        }
        Ok(endpoints)
    }

    /// Makes the bad ones, all of `organization`.
    pub(crate) async fn bad(
        control: &'a ControlClient,
        organization: &Organization,
        receiver: &Receiver,
        bad: Bad,
        options: EndpointOptions,
    ) -> anyhow::Result<Self> {
        let mut endpoints = Self { control, created: Vec::new() };
        let path = match bad.behaviour {
            Behaviour::Hang => "hang",
            Behaviour::Drip => "drip",
        };
        for _ in 0..bad.count {
            endpoints.create(&organization.key, &format!("{}/{path}", receiver.base_url), options).await?;
        }
        Ok(endpoints)
    }

    async fn create(&mut self, key: &str, url: &str, options: EndpointOptions) -> anyhow::Result<()> {
        let mut body = json!({"url": url, "max_in_flight": options.max_in_flight, "description": "load test"});
        if options.batch_events > 1 {
            body["batch"] = json!({"max_events": options.batch_events, "max_bytes": 1_048_576, "max_wait_ms": 5});
        }
        let created: Created = self.control.post("/v1/endpoints", key, &body).await?;
        self.created.push((created.id, key.to_owned()));
        Ok(())
    }

    /// Deletes them.
    pub(crate) async fn delete(self) -> anyhow::Result<()> {
        for (id, key) in self.created {
            let status = self.control.delete(&format!("/v1/endpoints/{id}"), &key).await?;
            ensure!(status == 204, "DELETE /v1/endpoints/{id} answered {status}");
        }
        Ok(())
    }
}

/// Sends an event for the bad endpoints `per_second` times, until it is dropped.
pub(crate) async fn keep_bad_ones_busy(control: &ControlClient, organization: &Organization, per_second: u16) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::from(per_second.max(1)));
    loop {
        ticks.tick().await;
        let event = json!({"event_type": "load.bad", "payload": {}});
        let sent: anyhow::Result<serde_json::Value> = control.post("/v1/events", &organization.key, &event).await;
        if let Err(error) = sent.context("sending an event for bad endpoints") {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_endpoints_are_a_behaviour_and_a_count() {
        assert_eq!("hang:50".parse(), Ok(Bad { behaviour: Behaviour::Hang, count: 50 }));
        assert_eq!("drip:1".parse(), Ok(Bad { behaviour: Behaviour::Drip, count: 1 }));
        assert!(["hang", "hang:0", "hang:1001", "sleep:1", ""].iter().all(|text| text.parse::<Bad>().is_err()));
    }
}
