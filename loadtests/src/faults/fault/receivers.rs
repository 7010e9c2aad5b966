//! The receivers of half of the organizations misbehave; the others' deliveries must not notice.

use std::time::Instant;

use super::{Struck, Times, struck};
use crate::faults::load::Tenant;
use crate::faults::receiver::Manner;
use crate::faults::system::System;

pub(super) async fn strike(system: &System, tenants: &[Tenant], manner: Manner, times: Times) -> anyhow::Result<Struck> {
    let with_endpoints = tenants.iter().filter(|tenant| !tenant.endpoints.is_empty());
    let endpoints: Vec<String> = with_endpoints.step_by(2).flat_map(|tenant| tenant.endpoints.clone()).collect();
    let began = Instant::now();
    system.receiver.behave(&endpoints, manner);
    tokio::time::sleep(times.kept).await;
    system.receiver.behave(&endpoints, Manner::Fine);
    Ok(struck(began))
}
