//! Self sign-up: off by default, and never possible for a web page without a CORS preflight.

use http_server::{ForwardedHeader, MountOptions, ServerLimits, ServerSettings, TrustedProxies};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tenancy::TenancyConfig;
use testkit::api::{client, start_tenancy};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::instance::{Instance, database, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_up_is_off_by_default() {
    let (_database, pool) = database().await;
    let instance = Instance::start(pool.clone()).await;
    let refused =
        send(instance.request(Method::POST, "/keys/generate").json(&json!({"organization_name": "Shop"}))).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let made: i64 = sqlx::query_scalar("SELECT count(*) FROM organizations").fetch_one(&pool).await.unwrap();
    assert_eq!(made, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_up_creates_an_organization_and_an_admin_key() {
    let (_database, pool) = database().await;
    let config = TenancyConfig { on_loopback: true, ..TenancyConfig::new(None, true) };
    let instance = Instance::start_with(pool, config).await;
    for name in ["organization_name", "org_name"] {
        let made =
            send(instance.request(Method::POST, "/keys/generate").json(&json!({name: "Shop", "tier": "business"})))
                .await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        assert_eq!(made.headers["cache-control"], "no-store");
        assert_eq!((made.text("organization_name").as_str(), made.text("tier").as_str()), ("Shop", "business"));
        assert_eq!(made.body["rate_limit_per_minute"], 10_000);
        let own = instance.get("/keys", &made.text("api_key")).await;
        assert_eq!((own.text("role").as_str(), own.text("key_id")), ("admin", made.text("key_id")));
        assert_eq!(own.text("organization_id"), made.text("organization_id"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_up_needs_a_content_type_that_forces_a_preflight() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool, TenancyConfig::new(None, true)).await;
    for content_type in [Some("text/plain"), Some("application/x-www-form-urlencoded"), None] {
        let mut request = instance.request(Method::POST, "/keys/generate").body(r#"{"organization_name": "Shop"}"#);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        assert_eq!(send(request).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_loopback_sign_up_gives_the_free_tier() {
    let (_database, pool) = database().await;
    let instance = Instance::start_with(pool, TenancyConfig::new(None, true)).await;
    let wanted = json!({"organization_name": "Shop", "tier": "enterprise"});
    let made = send(instance.request(Method::POST, "/keys/generate").json(&wanted)).await.expect(201);
    assert_eq!((made.text("tier").as_str(), &made.body["rate_limit_per_minute"]), ("free", &json!(100)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_ups_of_one_address_are_bounded() {
    let (_database, pool) = database().await;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let config = TenancyConfig { signups_per_hour: 3, ..TenancyConfig::new(None, true) };
    let routes = tenancy::routes(start_tenancy(pool.clone(), config, &stop));
    let settings = ServerSettings {
        trusted_proxies: TrustedProxies::parse("127.0.0.1", ForwardedHeader::XForwardedFor).unwrap(),
        ..ServerSettings::new(ServerLimits::default())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/keys/generate", listener.local_addr().unwrap());
    let router = http_server::mount(routes, MountOptions::default());
    drop(tokio::spawn(http_server::serve(listener, router, settings, stop.clone())));
    let client = client();
    let sign_up = async |from: &str, name: &str| {
        send(client.post(&url).header("x-forwarded-for", from).json(&json!({"organization_name": name}))).await
    };
    for from in ["192.0.2.1", "2001:db8::1"] {
        sign_up(from, "").await.expect(400);
        for _ in 0..2 {
            sign_up(from, "Shop").await.expect(201);
        }
        let refused = sign_up(from, "Shop").await.expect(429);
        let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=3_601).contains(&wait), "{wait}");
    }
    sign_up("2001:db8::2", "Shop").await.expect(429);
    sign_up("192.0.2.2", "Shop").await.expect(201);
    let made: i64 = sqlx::query_scalar("SELECT count(*) FROM organizations").fetch_one(&pool).await.unwrap();
    assert_eq!(made, 5, "a refused sign-up creates nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_loopback_sign_up_is_refused_behind_a_proxy() {
    let (_database, pool) = database().await;
    let config = TenancyConfig { on_loopback: true, ..TenancyConfig::new(None, true) };
    let instance = Instance::start_with(pool, config).await;
    for header in ["forwarded", "via", "x-forwarded-for"] {
        let request = instance.request(Method::POST, "/keys/generate").header(header, "192.0.2.1");
        send(request.json(&json!({"organization_name": "Shop"}))).await.expect(403);
    }
}
