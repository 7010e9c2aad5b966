//! Deleted endpoints: a cache does not read them from nothing, and their rows are purged.

use devstack::testing::TestDatabase;
use runtime::seal::SealingKey;
use schemas::ids::{EndpointId, OrgId};
use sqlx::postgres::PgPool;
use testkit::setup;

use super::purge;
use crate::endpoints::cache::EndpointCache;
use crate::endpoints::edit::new_endpoint;
use crate::endpoints::matching::EndpointState;
use crate::endpoints::pages::{self, PAGE_ROWS, ReadUpTo, Rows};
use crate::endpoints::store;

fn sealing() -> SealingKey {
    SealingKey::from_bytes([5; 32])
}

async fn database() -> (TestDatabase, PgPool) {
    let (database, _) = setup::database().await;
    let pool = setup::pool(&database.url);
    (database, pool)
}

async fn create(pool: &PgPool, org_id: OrgId) -> EndpointId {
    let mut transaction = runtime::postgres::begin(pool).await.unwrap();
    let version = store::raise_version(&mut transaction).await.unwrap();
    let (endpoint, _) = new_endpoint(&sealing(), org_id, "https://example.com/".to_owned());
    store::create(&mut transaction, version, &endpoint).await.unwrap();
    transaction.commit().await.unwrap();
    endpoint.id
}

async fn delete(pool: &PgPool, org_id: OrgId, id: EndpointId) {
    let mut transaction = runtime::postgres::begin(pool).await.unwrap();
    let version = store::raise_version(&mut transaction).await.unwrap();
    store::delete(&mut transaction, version, org_id, id).await.unwrap().unwrap();
    transaction.commit().await.unwrap();
}

async fn execute(pool: &PgPool, sql: &'static str) {
    sqlx::query(sql).execute(pool).await.unwrap();
}

async fn rows(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM endpoints").fetch_one(pool).await.unwrap()
}

/// So many endpoints that were deleted two days ago.
async fn add_deleted(pool: &PgPool, count: i64) {
    sqlx::query(
        "WITH raised AS (UPDATE endpoints_version SET version = version + $1 RETURNING version - $1 AS before)
         INSERT INTO endpoints (id, org_id, url, timeout_seconds, retry_schedule, version, deleted_at)
         SELECT gen_random_uuid(), gen_random_uuid(), 'https://example.com/', 10, '{}', before + n,
                now() - interval '2 days'
         FROM raised, generate_series(1, $1) AS n",
    )
    .bind(count)
    .execute(pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_new_cache_reads_no_deleted_endpoint() {
    let (_database, pool) = database().await;
    let org_id = OrgId::generate();
    let first = create(&pool, org_id).await;
    add_deleted(&pool, 200_000).await;
    let last = create(&pool, org_id).await;
    execute(&pool, "ANALYZE endpoints").await;
    let live = pages::next(&pool, Rows::Live, ReadUpTo::version(0)).await.unwrap();
    assert_eq!(live.iter().map(|endpoint| endpoint.id).collect::<Vec<_>>(), [first, last]);
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT * FROM endpoints WHERE deleted_at IS NULL AND (version, id) > (0, gen_random_uuid())
         ORDER BY version, id LIMIT 500",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(plan.iter().any(|line| line.contains("endpoints_live")), "{plan:#?}");
    let cache = EndpointCache::new(pool.clone(), sealing(), 1);
    let snapshot = cache.current().await.unwrap();
    for id in [first, last] {
        assert!(matches!(snapshot.state(id), EndpointState::Enabled(_)));
    }

    // A cache with an older version reads changes in pages, deleted ones as well.
    let (mut after, mut read) = (ReadUpTo::version(0), 0);
    while read < 2 * PAGE_ROWS {
        let page = pages::next(&pool, Rows::Changed, after).await.unwrap();
        assert_eq!(page.len(), PAGE_ROWS);
        (after, read) = (ReadUpTo::row(page.last().unwrap()), read + page.len());
    }
    assert_eq!(purge(&pool).await.unwrap(), 200_000);
    assert_eq!(rows(&pool).await, 2);
}

#[tokio::test]
async fn a_cache_that_missed_a_purged_deletion_learns_of_it() {
    let (_database, pool) = database().await;
    let org_id = OrgId::generate();
    let (kept, gone) = (create(&pool, org_id).await, create(&pool, org_id).await);
    let cache = EndpointCache::new(pool.clone(), sealing(), 1);
    let knows =
        |snapshot: &crate::endpoints::matching::Snapshot, id| !matches!(snapshot.state(id), EndpointState::Gone);
    let snapshot = cache.current().await.unwrap();
    assert!(knows(&snapshot, kept) && knows(&snapshot, gone));
    delete(&pool, org_id, gone).await;
    assert_eq!(purge(&pool).await.unwrap(), 0, "it was deleted less than a day ago");
    execute(&pool, "UPDATE endpoints SET deleted_at = now() - interval '25 hours' WHERE deleted_at IS NOT NULL").await;
    assert_eq!(purge(&pool).await.unwrap(), 1);
    let added = create(&pool, org_id).await;
    let snapshot = cache.current().await.unwrap();
    assert!(knows(&snapshot, kept) && knows(&snapshot, added) && !knows(&snapshot, gone));
}

#[tokio::test]
async fn an_endpoint_that_an_open_delivery_names_is_kept() {
    let (_database, pool) = database().await;
    let org_id = OrgId::generate();
    let (named, awaiting) = (create(&pool, org_id).await, create(&pool, org_id).await);
    for (id, table, columns, values) in [
        (named, "delivery_schedule", ", state, due_at", ", 'pending', now()"),
        (awaiting, "deliveries_awaiting_dedup", "", ""),
    ] {
        let sql = format!(
            "INSERT INTO {table} (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at,
                                  log_epoch, log_partition, log_offset{columns})
             VALUES (gen_random_uuid(), $1, gen_random_uuid(), $2, 'a', now(), 1, 0, 0{values})"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(org_id.as_uuid()).bind(id.as_uuid());
        query.execute(&pool).await.unwrap();
        delete(&pool, org_id, id).await;
    }
    execute(&pool, "UPDATE endpoints SET deleted_at = now() - interval '25 hours'").await;
    assert_eq!(purge(&pool).await.unwrap(), 0);
    execute(&pool, "UPDATE delivery_schedule SET state = 'cancelled', finished_at = now()").await;
    assert_eq!(purge(&pool).await.unwrap(), 1);
    execute(&pool, "DELETE FROM deliveries_awaiting_dedup").await;
    assert_eq!((purge(&pool).await.unwrap(), rows(&pool).await), (1, 0));
}
