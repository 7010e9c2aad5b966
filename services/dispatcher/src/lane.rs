//! Lanes of ordered endpoints. Pure.

use schemas::ids::{EndpointId, OrgId};
use uuid::Uuid;

/// Which events of an organization are delivered to an ordered endpoint one after the other, in the order of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneKey(Uuid);

impl LaneKey {
    /// The lane of an event. Events without an ordering key share one. Two keys with the same hash would only wait for
    /// each other.
    pub(crate) fn of(org_id: OrgId, ordering_key: Option<&str>) -> Self {
        let namespace = org_id.as_uuid();
        Self(ordering_key.map_or(namespace, |key| Uuid::new_v5(&namespace, key.as_bytes())))
    }

    pub(crate) const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// For binding to SQL.
    pub(crate) const fn as_uuid(&self) -> Uuid {
        self.0
    }
}

/// A lane of an endpoint: at most one of its deliveries is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EndpointLane {
    pub endpoint: EndpointId,
    pub key: LaneKey,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_lane_is_of_one_organization_and_one_key() {
        let (org, other) = (OrgId::generate(), OrgId::generate());
        assert_eq!(LaneKey::of(org, Some("a")), LaneKey::of(org, Some("a")));
        let keys =
            [(org, None), (org, Some("a")), (org, Some("b")), (org, Some("")), (other, None), (other, Some("a"))];
        let unique: HashSet<LaneKey> = keys.iter().map(|(org, key)| LaneKey::of(*org, *key)).collect();
        assert_eq!(unique.len(), keys.len());
    }
}
