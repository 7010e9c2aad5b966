use testkit::setup;

use super::*;

fn success(org_id: OrgId, event_id: EventId, matched: u32) -> Success {
    let accepted_at = OffsetDateTime::now_utc();
    Success { org_id, event_id, endpoint: EndpointId::generate(), matched, accepted_at }
}

#[tokio::test]
async fn an_event_is_complete_when_all_endpoints_have_accepted_it() {
    let (database, pool) = setup::database().await;
    let (org_id, event, single) = (OrgId::generate(), EventId::generate(), EventId::generate());
    let [first, second] = [success(org_id, event, 2), success(org_id, event, 2)];
    let mut connection = pool.acquire().await.unwrap();
    store(&mut connection, &[first, first, success(org_id, single, 1)]).await.unwrap();
    store(&mut connection, &[first]).await.unwrap();
    let complete = claim(&pool).await.unwrap();
    assert_eq!(complete, [(org_id.as_uuid(), single.as_uuid(), false)], "one endpoint counts once");
    assert_eq!(claim(&pool).await.unwrap(), [], "another dispatcher has it");
    delete(&pool, &complete).await.unwrap();
    store(&mut connection, &[second]).await.unwrap();
    assert_eq!(claim(&pool).await.unwrap(), [(org_id.as_uuid(), event.as_uuid(), false)]);
    assert_eq!(erase(&mut connection, org_id).await.unwrap(), 1);
    drop(database);
}

#[tokio::test]
async fn successes_end_with_their_events() {
    let (database, pool) = setup::database().await;
    let org_id = OrgId::generate();
    let old = Success { accepted_at: OffsetDateTime::UNIX_EPOCH, ..success(org_id, EventId::generate(), 2) };
    let kept = success(org_id, EventId::generate(), 2);
    let mut connection = pool.acquire().await.unwrap();
    store(&mut connection, &[old, kept]).await.unwrap();
    sqlx::query("UPDATE retention_floor SET floor = '2000-01-01'").execute(&pool).await.unwrap();
    sweep(&pool).await.unwrap();
    let left: Vec<Uuid> = sqlx::query_scalar("SELECT event_id FROM delivery_successes").fetch_all(&pool).await.unwrap();
    assert_eq!(left, [kept.event_id.as_uuid()]);
    drop(database);
}
