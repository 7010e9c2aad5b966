//! The order in which due endpoints get slots. Pure.

use std::collections::BTreeMap;

use schemas::ids::{EndpointId, OrgId};

/// Orders endpoints so that organizations take turns: first one endpoint of each organization, then the second of each,
/// and so on. `turn` is another number each time: it rotates which organization is first, and which endpoint of each.
pub(crate) fn in_turn(endpoints: impl Iterator<Item = (OrgId, EndpointId)>, turn: usize) -> Vec<EndpointId> {
    let mut by_org: BTreeMap<OrgId, Vec<EndpointId>> = BTreeMap::new();
    for (org_id, endpoint) in endpoints {
        by_org.entry(org_id).or_default().push(endpoint);
    }
    let mut of_orgs: Vec<Vec<EndpointId>> = by_org.into_values().collect();
    let orgs = of_orgs.len().max(1);
    of_orgs.rotate_left(turn % orgs);
    for endpoints in &mut of_orgs {
        // Another endpoint each time that the organization is first.
        let first = turn / orgs % endpoints.len().max(1);
        endpoints.rotate_left(first);
    }
    let most = of_orgs.iter().map(Vec::len).max().unwrap_or(0);
    (0..most).flat_map(|nth| of_orgs.iter().filter_map(move |endpoints| endpoints.get(nth).copied())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_endpoints_are_of_different_organizations() {
        let (busy, quiet) = (OrgId::generate(), OrgId::generate());
        let mut due: Vec<_> = (0..100).map(|_| (busy, EndpointId::generate())).collect();
        let fine = EndpointId::generate();
        due.push((quiet, fine));
        let firsts: HashSet<EndpointId> = (0..200).map(|turn| in_turn(due.iter().copied(), turn)[0]).collect();
        assert!(firsts.len() == 101, "each endpoint is the first one at some time: {}", firsts.len());
        for turn in 0..10 {
            let order = in_turn(due.iter().copied(), turn);
            assert!(order[..2].contains(&fine), "turn {turn}");
        }
    }

    proptest! {
        #[test]
        fn every_endpoint_has_one_place(orgs in prop::collection::vec(0_usize..5, 0..60), turn: usize) {
            let ids: Vec<OrgId> = (0..5).map(|_| OrgId::generate()).collect();
            let due: Vec<_> = orgs.into_iter().map(|org| (ids[org], EndpointId::generate())).collect();
            let order = in_turn(due.iter().copied(), turn);
            prop_assert_eq!(order.len(), due.len());
            let unique: HashSet<EndpointId> = order.into_iter().collect();
            prop_assert_eq!(unique, due.into_iter().map(|(_, endpoint)| endpoint).collect::<HashSet<_>>());
        }
    }
}
