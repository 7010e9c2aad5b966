//! Bad keys are counted, good ones never notice; keys are bounded in number.

use std::sync::Arc;
use std::time::Duration;

use devstack::testing::eventually;
use http::header;
use reqwest::StatusCode;
use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgPool};
use tenancy::TenancyConfig;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::instance::{Instance, OPERATOR_TOKEN, SOON, database, pool};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_30_bad_keys_a_minute_only_bad_ones_get_429() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool).await;
    let (organization, cached) = instance.organization_with_key("produce").await;
    let not_cached = instance.key(&organization, "produce").await.text("key");
    assert_eq!(instance.probe(&cached).await, StatusCode::OK);
    for _ in 0..15 {
        assert_eq!(instance.probe("noise").await, StatusCode::UNAUTHORIZED);
        assert_eq!(instance.probe(tenancy::key::generate(Default::default()).reveal()).await, StatusCode::UNAUTHORIZED);
    }
    let refused = instance.get("/probe", "noise").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u32 = refused.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(instance.get("/organizations", "a wrong operator token").await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(instance.probe(&cached).await, StatusCode::OK);
    assert_eq!(instance.probe(&not_cached).await, StatusCode::OK);
    let operator = instance.get("/organizations", OPERATOR_TOKEN).await.status;
    assert_eq!(operator, StatusCode::OK, "nobody locks the operator out from the operator's address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_keys_of_an_organization_is_limited() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let (organization, key) = instance.organization_with_key("admin").await;
    let fill = "INSERT INTO api_keys (id, org_id, name, role, environment, prefix, hash)
                SELECT gen_random_uuid(), $1, 'filler', 'produce', 'live', 'zap_live_00000000', sha256(n::text::bytea)
                FROM generate_series(1, 999) n";
    sqlx::query(fill).bind(organization.parse::<Uuid>().unwrap()).execute(&pool).await.unwrap();
    let refused = instance.post("/keys", &key, json!({"name": "one more", "role": "produce"})).await;
    assert_eq!((refused.status, refused.text("error_code").as_str()), (StatusCode::CONFLICT, "too_many_keys"));
    sqlx::query("UPDATE api_keys SET revoked_at = now() WHERE name = 'filler'").execute(&pool).await.unwrap();
    assert_eq!(
        instance.post("/keys", &key, json!({"name": "one more", "role": "produce"})).await.status,
        StatusCode::CREATED
    );
    let listed = instance.get("/keys/list", &key).await;
    let keys = listed.body["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1_000);
    assert!(
        keys[0]["revoked_at"].is_null() && keys[1]["revoked_at"].is_null() && !keys[2]["revoked_at"].is_null(),
        "unrevoked keys are first"
    );
}

/// Connections that wait for a lock of the table of keys.
async fn waiting_for_keys(pool: &PgPool) -> i64 {
    let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'api_keys'::regclass AND NOT granted";
    sqlx::query_scalar(waiting).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_limit_all_lookups_use_one_connection() {
    let (_database, pool) = database().await;
    let mut config = TenancyConfig::new(Some(OPERATOR_TOKEN.to_owned()), false);
    config.auth.lookup_timeout = 3 * SOON;
    let instance = Arc::new(Instance::start_with(pool.clone(), config).await);
    let (_, good) = instance.organization_with_key("produce").await;
    for _ in 0..31 {
        instance.probe("noise").await;
    }
    let mut lock = runtime::postgres::begin(&pool).await.unwrap();
    sqlx::query("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut answers = JoinSet::new();
    for _ in 0..20 {
        let instance = Arc::clone(&instance);
        answers.spawn(async move { instance.probe(tenancy::key::generate(Default::default()).reveal()).await });
    }
    let known = tokio::spawn({
        let instance = Arc::clone(&instance);
        async move { instance.probe(&good).await }
    });
    eventually(SOON, "a lookup waits", || async { (waiting_for_keys(&pool).await == 1).then_some(()) }).await;
    for _ in 0..20 {
        instance.probe("noise").await;
        assert_eq!(waiting_for_keys(&pool).await, 1, "all others wait for it");
    }
    lock.rollback().await.unwrap();
    assert!(answers.join_all().await.iter().all(|status| *status == StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(known.await.unwrap(), StatusCode::OK, "a good key waits its turn, and is not refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_keys_of_a_noisy_address_are_not_refused() {
    let (_database, pool) = database().await;
    let instance = Arc::new(Instance::start(pool).await);
    let (organization, admin) = instance.organization_with_key("admin").await;
    let mut good = Vec::new();
    for _ in 0..100 {
        good.push(instance.key(&organization, "produce").await.text("key"));
    }
    let changed = instance.key(&organization, "produce").await;
    let (changed, changed_path) = (changed.text("key"), format!("/keys/{}", changed.text("id")));
    let mut noise = JoinSet::new();
    for _ in 0..8 {
        let instance = Arc::clone(&instance);
        noise.spawn(async move {
            loop {
                instance.probe(tenancy::key::generate(Default::default()).reveal()).await;
            }
        });
    }
    eventually(SOON, "the address is noisy", || async {
        (instance.probe("noise").await == StatusCode::TOO_MANY_REQUESTS).then_some(())
    })
    .await;
    for key in &good {
        assert_eq!(instance.probe(key).await, StatusCode::OK, "a good key is used for the first time");
    }
    for number in 0..100 {
        let name = json!({"name": format!("changed {number}")});
        instance.patch(&changed_path, &admin, name).await.expect(200);
        assert_eq!(instance.probe(&changed).await, StatusCode::OK, "a good key was just changed");
    }
    noise.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_known_does_not_make_an_address_noisy() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let (organization, admin) = instance.organization_with_key("admin").await;
    let revoked = instance.key(&organization, "produce").await;
    let expired = instance.key(&organization, "produce").await.text("key");
    assert_eq!(instance.probe(&revoked.text("key")).await, StatusCode::OK);
    instance.delete(&format!("/keys/{}", revoked.text("id")), &admin).await.expect(204);
    sqlx::query("UPDATE api_keys SET expires_at = now() WHERE prefix = left($1, 17)")
        .bind(&expired)
        .execute(&pool)
        .await
        .unwrap();
    for _ in 0..40 {
        for key in [&revoked.text("key"), &expired] {
            assert_eq!(instance.probe(key).await, StatusCode::UNAUTHORIZED);
        }
    }
    assert_eq!(instance.probe("noise").await, StatusCode::UNAUTHORIZED, "the address is not over its limit");
}

/// How often the table of keys was read so far. A connection reports that for certain when it ends: this ends all
/// others, those that migrated the database among them.
async fn reads_of_keys(url: &str) -> i64 {
    let connection = Mutex::new(PgConnection::connect(url).await.unwrap());
    // In two statements: PostgreSQL may evaluate the conditions of one in any order, and other tests use this server.
    let others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let ended: Vec<i32> = sqlx::query_scalar(others).fetch_all(&mut *connection.lock().await).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM UNNEST($1::integer[]) AS pid";
    sqlx::query(end).bind(&ended).execute(&mut *connection.lock().await).await.unwrap();
    eventually(SOON, "all other connections have ended and reported", || async {
        let mut connection = connection.lock().await;
        let left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY ($1)";
        let left: i64 = sqlx::query_scalar(left).bind(&ended).fetch_one(&mut *connection).await.unwrap();
        let reads = "SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'api_keys'";
        let reads = sqlx::query_scalar(reads).fetch_one(&mut *connection).await.unwrap();
        (left == 0).then_some(reads)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_for_one_unknown_key_cost_the_budget_only() {
    const LOOKUPS: usize = 4;
    const WAITING: usize = 40;
    const REQUESTS: usize = 100;
    let (database, _) = database().await;
    let mut config = TenancyConfig::new(None, false);
    config.auth.max_lookups = LOOKUPS;
    config.auth.max_waiting_lookups = WAITING;
    config.auth.lookup_timeout = 6 * SOON;
    let before = reads_of_keys(&database.url).await;
    let instance = Arc::new(Instance::start_with(pool(&database.url), config).await);
    let unknown = Arc::new(tenancy::key::generate(Default::default()));
    // The connections of the pool that came with the database have just been ended.
    let mut lock = runtime::postgres::begin(&pool(&database.url)).await.unwrap();
    sqlx::query("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let mut answers = JoinSet::new();
    for _ in 0..REQUESTS {
        let (instance, unknown) = (Arc::clone(&instance), Arc::clone(&unknown));
        answers.spawn(async move { instance.probe(unknown.reveal()).await });
    }
    for _ in 0..REQUESTS - LOOKUPS - WAITING {
        let status = tokio::time::timeout(SOON, answers.join_next()).await.expect("answered without PostgreSQL");
        assert_eq!(status.unwrap().unwrap(), StatusCode::SERVICE_UNAVAILABLE, "over the bound of waiting lookups");
    }
    lock.rollback().await.unwrap();
    for status in answers.join_all().await {
        let refused = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS];
        assert!(refused.contains(&status), "the others waited");
    }
    let reads = reads_of_keys(&database.url).await - before;
    assert!((1..=LOOKUPS as i64).contains(&reads), "{reads} reads for {} waiters", LOOKUPS + WAITING);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_that_count_nothing_are_swept() {
    let (_database, pool) = database().await;
    // A bucket is a second: the window of five minutes ago is the newest that is deleted.
    sqlx::query(
        "INSERT INTO rate_limits (scope, newest_bucket, counts)
         SELECT gen_random_uuid(), extract(epoch FROM now())::bigint - age, ''
         FROM UNNEST('{100000, 310, 240, 0}'::bigint[]) age",
    )
    .execute(&pool)
    .await
    .unwrap();
    sqlx::query("INSERT INTO rate_limit_instances VALUES (gen_random_uuid(), now() - interval '1 hour')")
        .execute(&pool)
        .await
        .unwrap();
    let mut config = TenancyConfig::new(None, false);
    config.limits.report_every = Duration::from_millis(100);
    let _instance = Instance::start_with(pool.clone(), config).await;
    eventually(SOON, "old windows and instances are deleted", || async {
        let (windows, instances): (i64, i64) =
            sqlx::query_as("SELECT (SELECT count(*) FROM rate_limits), (SELECT count(*) FROM rate_limit_instances)")
                .fetch_one(&pool)
                .await
                .unwrap();
        assert!(windows >= 2, "a window that counts was deleted");
        ((windows, instances) == (2, 1)).then_some(())
    })
    .await;
}
