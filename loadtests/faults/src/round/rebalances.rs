//! Whether consumers were rebalanced: whether they claimed partitions since the start of a round.

use std::collections::HashMap;

use crate::audit;
use crate::system::System;
use loadkit::Role;

/// Number of claims by each role when a round started.
pub(super) struct ClaimCounts(HashMap<&'static str, i64>);

impl ClaimCounts {
    pub(super) async fn now(system: &System) -> anyhow::Result<Self> {
        let mut counts = HashMap::new();
        for role in [Role::Materializer, Role::Dispatcher] {
            counts.insert(role.name(), audit::count_claims(&system.pool, role.name()).await?);
        }
        Ok(Self(counts))
    }

    /// Whether an instance of the role has claimed a partition since these counts.
    pub(super) async fn was_rebalanced(&self, system: &System, role: Role) -> anyhow::Result<bool> {
        let before = self.0.get(role.name()).copied().unwrap_or_default();
        Ok(audit::count_claims(&system.pool, role.name()).await? > before)
    }
}
