//! With PostgreSQL out of reach, who is known goes on, and who is not is told to come back.

use http::header;
use reqwest::StatusCode;

use crate::instance::{Instance, SOON, database, pool, until_probe};
use crate::proxy::Proxy;

#[tokio::test]
async fn a_cached_key_serves_and_an_unknown_one_gets_503_until_postgres_is_back() {
    let (database, near) = database().await;
    let proxy = Proxy::start(&database.url).await;
    let instance = Instance::start(pool(&proxy.url(&database.url))).await;
    let (_, cached) = instance.organization_with_key("produce").await;
    let (_, not_cached) = Instance::start(near).await.organization_with_key("produce").await;
    let no_key = tenancy::key::generate(tenancy::key::Environment::Live);
    assert_eq!(instance.probe(&cached).await, StatusCode::OK);

    proxy.cut();
    for key in [&not_cached, no_key.reveal()] {
        let answer = instance.get("/probe", key).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "good or bad: it cannot be told");
        assert!(answer.headers.contains_key(header::RETRY_AFTER));
        assert_eq!(answer.text("error_code"), "unavailable");
    }
    assert_eq!(instance.probe(&cached).await, StatusCode::OK);
    assert_eq!(instance.probe("noise").await, StatusCode::UNAUTHORIZED, "that needs no look-up");
    assert_eq!(instance.get("/keys/list", &cached).await.status, StatusCode::FORBIDDEN, "nor does a role");

    proxy.pass();
    until_probe(&instance, &not_cached, StatusCode::OK, SOON).await;
    until_probe(&instance, no_key.reveal(), StatusCode::UNAUTHORIZED, SOON).await;
}

#[tokio::test]
async fn an_instance_that_starts_without_postgres_works_once_it_is_there() {
    let (database, near) = database().await;
    let (_, key) = Instance::start(near).await.organization_with_key("produce").await;
    let proxy = Proxy::start(&database.url).await;
    proxy.cut();
    let instance = Instance::start(pool(&proxy.url(&database.url))).await;
    assert_eq!(instance.probe(&key).await, StatusCode::SERVICE_UNAVAILABLE);
    proxy.pass();
    until_probe(&instance, &key, StatusCode::OK, SOON).await;
}
