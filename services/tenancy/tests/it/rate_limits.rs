//! Rate limits over real instances that share one PostgreSQL, with a short window.

use std::time::{Duration, Instant};
use time::OffsetDateTime;

use devstack::testing::eventually;
use http::header;
use reqwest::StatusCode;
use serde_json::json;
use sqlx::postgres::PgPool;
use tenancy::TenancyConfig;
use testkit::api::Answer;
use testkit::proxy::DatabaseProxy;
use uuid::Uuid;

use crate::instance::{Instance, OPERATOR_TOKEN, SOON, database, pool};

const WINDOW: Duration = Duration::from_secs(3);
const INSTANCES: usize = 4;

fn config(window: Duration) -> TenancyConfig {
    let mut config = TenancyConfig::new(Some(OPERATOR_TOKEN.to_owned()), false);
    config.limits.window = window;
    config.limits.report_every = Duration::from_millis(100);
    config
}

/// An organization with this limit, and a key of it.
async fn limited(instance: &Instance, pool: &PgPool, limit: i32) -> (Uuid, String) {
    let (organization, key) = instance.organization_with_key("manage").await;
    let id = organization.parse().unwrap();
    set_limit(pool, id, limit).await;
    (id, key)
}

async fn set_limit(pool: &PgPool, organization: Uuid, limit: i32) {
    sqlx::query("UPDATE organizations SET rate_limit_per_minute = $2 WHERE id = $1")
        .bind(organization)
        .bind(limit)
        .execute(pool)
        .await
        .unwrap();
}

fn number(answer: &Answer, name: &str) -> u32 {
    answer.header(name).unwrap_or_else(|| panic!("no {name} in {answer:?}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_shows_the_limit_and_a_429_the_wait() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool.clone(), config(Duration::from_secs(60))).await;
    let (_, key) = limited(&instance, &pool, 3).await;
    // An answer of a handler, of the operator's routes, and of a route that refuses the request.
    for (path, status, left) in [("/probe", 200, 2), ("/organizations", 403, 1), ("/batch/9", 413, 0)] {
        let answer = instance.get(path, &key).await.expect(status);
        for prefix in ["ratelimit", "x-ratelimit"] {
            assert_eq!(number(&answer, &format!("{prefix}-limit")), 3, "{path}");
            assert_eq!(number(&answer, &format!("{prefix}-remaining")), left, "{path}");
            assert!((1..=63).contains(&number(&answer, &format!("{prefix}-reset"))), "{answer:?}");
        }
    }
    let refused = instance.get("/probe", &key).await.expect(429);
    assert_eq!(refused.text("error_code"), "rate_limit_exceeded");
    assert!(refused.text("detail").starts_with("Rate limit exceeded"), "{}", refused.body);
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    let wait = number(&refused, "retry-after");
    assert!((50..=63).contains(&wait), "{wait}");
    assert_eq!((number(&refused, "ratelimit-remaining"), number(&refused, "ratelimit-reset")), (0, wait));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_with_a_limit_narrows_and_costs_others_nothing() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool.clone(), config(Duration::from_secs(60))).await;
    let (organization, wide) = limited(&instance, &pool, 10).await;
    let body = json!({"name": "narrow", "role": "produce", "rate_limit_per_minute": 2});
    let narrow = instance.post(&format!("/organizations/{organization}/keys"), OPERATOR_TOKEN, body).await;
    let narrow = narrow.expect(201).text("key");
    for status in [200, 200, 429, 429, 429, 429] {
        let answer = instance.get("/probe", &narrow).await.expect(status);
        assert_eq!(number(&answer, "ratelimit-limit"), 2, "the tighter one is shown");
    }
    let after = instance.get("/probe", &wide).await.expect(200);
    assert_eq!(number(&after, "ratelimit-remaining"), 7, "two were admitted for the narrow key, one for this one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unlimited_keys_have_no_limit_and_no_headers() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool.clone(), config(WINDOW)).await;
    let (_, key) = limited(&instance, &pool, 0).await;
    let mut off = config(WINDOW);
    off.limits.enabled = false;
    let without_limits = Instance::start_with(pool.clone(), off).await;
    let (_, limited) = limited(&instance, &pool, 1).await;
    for _ in 0..5 {
        assert!(instance.get("/probe", &key).await.expect(200).header("ratelimit-limit").is_none());
        assert!(without_limits.get("/probe", &limited).await.expect(200).header("ratelimit-limit").is_none());
    }
    instance.get("/probe", &limited).await.expect(200);
    instance.get("/probe", &limited).await.expect(429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_counts_all_its_events_or_none() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool.clone(), config(Duration::from_secs(60))).await;
    let (_, key) = limited(&instance, &pool, 10).await;
    let batch = async |events: u32| instance.get(&format!("/batch/{events}"), &key).await;
    let too_large = batch(11).await.expect(413);
    assert_eq!(too_large.text("error_code"), "batch_too_large");
    assert_eq!(number(&batch(5).await.expect(200), "ratelimit-remaining"), 4, "one for the batch that was too large");
    let refused = batch(6).await.expect(429);
    assert_eq!(refused.text("error_code"), "rate_limit_exceeded");
    assert_eq!(number(&batch(3).await.expect(200), "ratelimit-remaining"), 0, "one for the batch that was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_limit_is_used_within_a_second() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool.clone(), config(Duration::from_secs(60))).await;
    let (organization, key) = limited(&instance, &pool, 1).await;
    instance.get("/probe", &key).await.expect(200);
    instance.get("/probe", &key).await.expect(429);
    for limit in [5, 2, 0, 1] {
        set_limit(&pool, organization, limit).await;
        let shown = (limit > 0).then(|| limit.to_string());
        eventually(Duration::from_secs(1), &format!("the limit {limit} is used"), || async {
            (instance.get("/probe", &key).await.header("ratelimit-limit").map(str::to_owned) == shown).then_some(())
        })
        .await;
    }
    instance.get("/probe", &key).await.expect(429);
}

/// When an admitted request was sent and answered. It was counted in between.
type Admitted = (Duration, Duration);

/// Sends `per_second` requests evenly over all instances for this long. Returns the admitted ones in order.
async fn drive(instances: &[Instance], key: &str, per_second: u32, time: Duration) -> Vec<Admitted> {
    let (start, pause) = (Instant::now(), Duration::from_secs(1) / per_second);
    let requests = (0..).map(|n: u32| (n, pause * n)).take_while(|(_, due)| *due < time).map(|(n, due)| async move {
        tokio::time::sleep_until((start + due).into()).await;
        let instance = &instances[n as usize % instances.len()];
        let sent = start.elapsed();
        let status = instance.probe(key).await;
        assert!(status == StatusCode::OK || status == StatusCode::TOO_MANY_REQUESTS, "{status}");
        (status == StatusCode::OK).then(|| (sent, start.elapsed()))
    });
    let mut admitted: Vec<_> = futures_util::future::join_all(requests).await.into_iter().flatten().collect();
    admitted.sort_unstable();
    admitted
}

/// The most requests that were certainly counted within one window: sent and answered in it. By the time of the answer
/// alone, a machine that stands still for a moment would move requests of one window into the next.
fn most_in_any_window(admitted: &[Admitted]) -> usize {
    let within = |(first, (from, _)): (usize, &Admitted)| {
        let sent_in = admitted[first..].iter().take_while(|(sent, _)| *sent < *from + WINDOW);
        sent_in.filter(|(_, answered)| *answered < *from + WINDOW).count()
    };
    admitted.iter().enumerate().map(within).max().unwrap_or_default()
}

async fn four_instances_at(limit: u32) {
    let (_database, pool) = database().await;
    let mut instances = Vec::new();
    for _ in 0..INSTANCES {
        instances.push(Instance::start_with(pool.clone(), config(WINDOW)).await);
    }
    let (_, key) = limited(&instances[0], &pool, i32::try_from(limit).unwrap()).await;
    let per_second = limit * 12 / 10 / 3;
    let admitted = drive(&instances, &key, per_second, 3 * WINDOW).await;
    let most = most_in_any_window(&admitted);
    assert!(most * 100 <= limit as usize * 105, "{most} of {limit} within {WINDOW:?}");
    let share = admitted.len() * 100 / (3 * limit as usize);
    assert!(share >= 90, "{share} % of the limit was admitted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_instances_share_a_small_limit() {
    four_instances_at(100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_instances_share_a_limit_leased_in_slices() {
    four_instances_at(2_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_postgres_each_instance_admits_its_part() {
    let (database, near) = database().await;
    let proxy = DatabaseProxy::start(&database.url).await;
    let other = Instance::start_with(near.clone(), config(Duration::from_secs(60))).await;
    let instance = Instance::start_with(pool(&proxy.url), config(Duration::from_secs(60))).await;
    let (_, key) = limited(&other, &near, 40).await;
    eventually(SOON, "both instances are seen", || async {
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM rate_limit_instances").fetch_one(&near).await.unwrap();
        (seen == 2).then_some(())
    })
    .await;
    assert_eq!(number(&instance.get("/probe", &key).await.expect(200), "ratelimit-remaining"), 39);
    let seen_at: OffsetDateTime = sqlx::query_scalar("SELECT now()").fetch_one(&near).await.unwrap();
    eventually(SOON, "both instances reported after both were seen", || async {
        let count = "SELECT count(*) FROM rate_limit_instances WHERE seen_at > $1";
        let reported: i64 = sqlx::query_scalar(count).bind(seen_at).fetch_one(&near).await.unwrap();
        (reported == 2).then_some(())
    })
    .await;
    // The notification of the new key may have come after the first request, and removed the key from the cache.
    assert_eq!(number(&instance.get("/probe", &key).await.expect(200), "ratelimit-remaining"), 38);

    proxy.disconnect();
    let mut admitted = 2;
    while instance.probe(&key).await == StatusCode::OK {
        admitted += 1;
    }
    assert_eq!(admitted, 20, "half of the limit, the two before the outage among them");
    let refused = instance.get("/probe", &key).await.expect(429);
    assert_eq!((number(&refused, "ratelimit-limit"), number(&refused, "ratelimit-remaining")), (40, 0));

    proxy.reconnect();
    eventually(SOON, "the shared window is used again", || async {
        (instance.probe(&key).await == StatusCode::OK).then_some(())
    })
    .await;
    let after = instance.get("/probe", &key).await.expect(200);
    assert_eq!(number(&after, "ratelimit-remaining"), 18, "the shared window learned of what was admitted meanwhile");
    assert_eq!(number(&other.get("/probe", &key).await.expect(200), "ratelimit-remaining"), 17);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_postgres_delays_no_request_for_long() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool.clone(), config(Duration::from_secs(60))).await;
    let (organization, key) = limited(&instance, &pool, 100).await;
    instance.get("/probe", &key).await.expect(200);
    let mut holder = runtime::postgres::begin(&pool).await.unwrap();
    sqlx::query("SELECT FROM rate_limits WHERE scope = $1 FOR UPDATE")
        .bind(organization)
        .execute(&mut *holder)
        .await
        .unwrap();
    let asked = Instant::now();
    instance.get("/probe", &key).await.expect(200);
    let waited = asked.elapsed();
    assert!(waited >= Duration::from_millis(250) && waited < Duration::from_secs(2), "{waited:?}");
    holder.rollback().await.unwrap();
    eventually(SOON, "the shared window is used again", || async {
        let counts: Vec<u8> = sqlx::query_scalar("SELECT counts FROM rate_limits WHERE scope = $1")
            .bind(organization)
            .fetch_one(&pool)
            .await
            .unwrap();
        instance.get("/probe", &key).await.expect(200);
        let counted: u32 = counts.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).sum();
        (counted > 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_windows_and_absent_instances_are_deleted() {
    let (_database, pool) = database().await;
    sqlx::query("INSERT INTO rate_limits (scope, newest_bucket, counts) VALUES (gen_random_uuid(), 1, '')")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("INSERT INTO rate_limit_instances VALUES (gen_random_uuid(), now() - interval '1 day')")
        .execute(&pool)
        .await
        .unwrap();
    let _instance = Instance::start_with(pool.clone(), config(WINDOW)).await;
    eventually(SOON, "both rows are deleted", || async {
        let left: (i64, i64) =
            sqlx::query_as("SELECT (SELECT count(*) FROM rate_limits), (SELECT count(*) FROM rate_limit_instances)")
                .fetch_one(&pool)
                .await
                .unwrap();
        (left == (0, 1)).then_some(())
    })
    .await;
}

/// Asks the probe `times` times with each key, and counts those that were admitted.
async fn admitted(instance: &Instance, keys: &[String], times: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..times {
        for key in keys {
            admitted += usize::from(instance.get("/keys", key).await.status == StatusCode::OK);
        }
    }
    admitted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_key_gets_no_second_window_by_rotation() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool.clone(), config(Duration::from_secs(60))).await;
    let (organization, _) = limited(&instance, &pool, 1_000).await;
    let body = json!({"name": "limited", "role": "manage", "rate_limit_per_minute": 10});
    let made = instance.post(&format!("/organizations/{organization}/keys"), OPERATOR_TOKEN, body).await;
    let mut key = made.expect(201).text("key");
    let (mut admitted, mut rotations) = (0, 0);
    for number in 1..60 {
        if number % 4 == 0 {
            let rotated = instance.post("/keys/rotate", &key, json!({"overlap_seconds": 60})).await;
            if rotated.status == StatusCode::OK {
                (key, admitted, rotations) = (rotated.text("api_key"), admitted + 1, rotations + 1);
            }
        }
        admitted += usize::from(instance.get("/keys", &key).await.status == StatusCode::OK);
    }
    assert_eq!((admitted, rotations), (10, 2), "all keys of the rotation count in one window");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_limited_key_share_its_window() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool.clone(), config(Duration::from_secs(60))).await;
    let other = Instance::start_with(pool.clone(), config(Duration::from_secs(60))).await;
    let (organization, wide) = limited(&instance, &pool, 1_000).await;
    let body = json!({"name": "limited", "role": "manage", "rate_limit_per_minute": 20});
    let made = instance.post(&format!("/organizations/{organization}/keys"), OPERATOR_TOKEN, body.clone()).await;
    let maker = made.expect(201).text("key");
    let mut keys = Vec::new();
    for limit in [20, 19, 20, 12] {
        let body = json!({"name": "made", "role": "manage", "rate_limit_per_minute": limit});
        keys.push(instance.post("/keys", &maker, body).await.expect(201).text("key"));
    }
    let body = json!({"name": "of the second generation", "role": "produce", "rate_limit_per_minute": 12});
    keys.push(instance.post("/keys", &keys[3], body).await.expect(201).text("key"));
    // Five requests have made them. Their smaller limits narrow, also when one transaction leases for all.
    let both = keys[3..].iter().cycle().take(10);
    let answers = futures_util::future::join_all(both.map(|key| instance.get("/keys", key))).await;
    let narrow = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(narrow, 12 - 5, "each is refused when the window holds its own limit");
    let left = admitted(&other, &keys[..3], 10).await;
    assert_eq!(left, 20 - 12, "on any instance the family has what is left of the limit");
    instance.get("/keys", &maker).await.expect(429);
    let body = json!({"name": "made", "role": "produce", "rate_limit_per_minute": 20});
    let unrelated = instance.post("/keys", &wide, body).await.expect(201).text("key");
    assert_eq!(admitted(&instance, &[unrelated], 25).await, 20, "a key of one without a limit has its own window");
}
