use std::net::Ipv4Addr;
use std::time::Instant;

use devstack::testing::name_server::NameServer;

use super::*;

const NO_PLACE: Outcome = Err(Failure::NotSent(NotSent::NoLookupPlace));

#[tokio::test]
async fn look_ups_of_one_organization_leave_places_to_others() {
    let (resolver, a, b) = (Resolver::new(&[]).unwrap(), OrgId::generate(), OrgId::generate());
    // As if the name servers of four of its names were dead.
    let mut dead = Vec::new();
    for _ in 0..MAX_LOOKUPS_PER_ORGANIZATION {
        dead.push(resolver.0.places.of(a).take(1).unwrap());
    }
    let started = Instant::now();
    let many = (0..20).map(|n| resolver.look_up(a, if n % 2 == 0 { "localhost" } else { "127.0.0.2" }));
    assert!(futures_util::future::join_all(many).await.iter().all(|outcome| *outcome == NO_PLACE));
    assert!(started.elapsed() < 3 * PLACE_TIMEOUT, "they wait beside each other: {:?}", started.elapsed());
    let found = resolver.look_up(b, "localhost").await.unwrap();
    assert!(found.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{found:?}");
    assert_eq!(resolver.look_up(a, "localhost").await, Ok(found), "the cache needs no place");
    drop(dead.pop());
    assert!(resolver.look_up(a, "127.0.0.2").await.is_ok(), "a place is free");
    assert!(resolver.0.lookups.is_empty());
}

#[tokio::test]
async fn requests_to_one_name_share_a_look_up() {
    let (resolver, a) = (Resolver::new(&[]).unwrap(), OrgId::generate());
    let places: Vec<_> = (1..MAX_LOOKUPS_PER_ORGANIZATION).map(|_| resolver.0.places.of(a).take(1).unwrap()).collect();
    // One place is left, so each of these has it only if they share it.
    let outcomes = futures_util::future::join_all((0..50).map(|_| resolver.look_up(a, "localhost"))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    drop(resolver.join(a, "127.0.0.3"));
    assert!(resolver.0.lookups.is_empty(), "a look-up that nobody waits for is forgotten");
    drop(places);
}

#[tokio::test]
async fn a_dead_name_server_is_given_up_and_delays_nobody_else() {
    let server = NameServer::start().await.unwrap();
    let resolver = Resolver::new(&[server.address()]).unwrap();
    let (a, b) = (OrgId::generate(), OrgId::generate());
    let dead: Vec<_> = (0..20)
        .map(|n| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.look_up(a, &format!("n{n}.dead.test")).await })
        })
        .collect();
    // While they wait for their name server.
    let found = resolver.look_up(b, "good.live.test").await.unwrap();
    assert_eq!(found[..], [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    assert!(dead.iter().any(|look_up| !look_up.is_finished()), "the dead names are still being looked up");
    assert_eq!(resolver.look_up(b, "nobody.test").await, Err(Failure::NameUnknown));
    let outcomes = futures_util::future::join_all(dead).await;
    let of = |expected: Outcome| outcomes.iter().flatten().filter(|outcome| **outcome == expected).count();
    let (dead, no_place) = (of(Err(Failure::NameServer)), of(NO_PLACE));
    assert!(dead >= 4 && dead + no_place == 20, "{dead} found their name server dead, {no_place} got no place");
}

#[tokio::test]
async fn a_look_up_that_nobody_waits_for_frees_its_place() {
    let server = NameServer::start().await.unwrap();
    let (resolver, a) = (Resolver::new(&[server.address()]).unwrap(), OrgId::generate());
    for n in 0..3 * MAX_LOOKUPS_PER_ORGANIZATION {
        let name = format!("n{n}.dead.test");
        assert!(tokio::time::timeout(Duration::from_millis(20), resolver.look_up(a, &name)).await.is_err());
    }
    assert!(resolver.look_up(a, "good.live.test").await.is_ok());
}
