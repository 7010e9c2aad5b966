//! Fuzz tests with arbitrary and mutated bytes: ids in paths, queries, request ids, trace contexts, sealed tokens.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use fuzz::{ANY_TEXT, DecodeOutcome, Samples, drive};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_server::{MountOptions, PathId, QueryParams, Routes, mount};
use runtime::seal::SealingKey;
use schemas::ids::EventId;
use schemas::position::{RecordPosition, TOKEN_PURPOSE};
use tower::ServiceExt as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

/// A path and the value of a header, each on its own line.
fn golden() -> Vec<Vec<u8>> {
    let lines = [
        format!("/v1/events/{ID}\nabc-1"),
        format!("/api/events/{}\n00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ID.to_uppercase()),
        format!("/events/{}?limit=7&event_type=a%2Fb&event_type=c+d&cursor=x\nx", ID.replace('-', "%2D")),
        "/v1/events/%ff%c3%28?a=%ff\n\u{e9}".to_owned(),
        "/v1/inbox?limit=1&limit=2\n".to_owned(),
    ];
    lines.into_iter().map(String::into_bytes).collect()
}

#[utoipa::path(get, path = "/inbox", params(("limit" = u32, Query), ("event_type" = Vec<String>, Query)))]
async fn page(_: QueryParams) -> &'static str {
    "page"
}

#[test]
fn no_path_or_header_causes_a_server_error() {
    let api = Router::new().route("/events/{id}", get(async |PathId(id): PathId<EventId>| id.to_string()));
    let api = Routes::from(OpenApiRouter::from(api).routes(routes!(page)));
    let router = mount(api, MountOptions::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let golden = golden();
    drive(
        "HTTP path and headers",
        &Samples { golden: &golden, tokens: ANY_TEXT, header: 11, large: 40_000 },
        |bytes| {
            let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
            // hyper refuses an invalid URI or header before it calls the router.
            let Ok(uri) = Uri::try_from(lines.next().unwrap_or_default()) else { return Ok(DecodeOutcome::Refused) };
            let Ok(header) = HeaderValue::from_bytes(lines.next().unwrap_or_default()) else {
                return Ok(DecodeOutcome::Refused);
            };
            if let Ok(params) = QueryParams::of(&uri) {
                // None of them may panic.
                drop((
                    params.parse_in_range("limit", 1..=1000_u32),
                    params.flag("limit"),
                    params.one("cursor").is_ok(),
                ));
            }
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = uri;
            for name in ["x-request-id", "traceparent", "tracestate", "accept", "content-length"] {
                request.headers_mut().insert(name, header.clone());
            }
            let response = runtime.block_on(router.clone().oneshot(request)).map_err(|never| never.to_string())?;
            let id = response.headers().get("x-request-id").map(HeaderValue::as_bytes).unwrap_or_default();
            if !(1..=128).contains(&id.len()) || !id.iter().all(u8::is_ascii_graphic) {
                return Err(format!("the request id is {id:?}"));
            }
            match response.status() {
                StatusCode::OK => Ok(DecodeOutcome::Read),
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                    Ok(DecodeOutcome::Refused)
                }
                other => Err(format!("answered {other}")),
            }
        },
    );
}

#[test]
fn only_sealed_tokens_open() {
    let (key, org) = (SealingKey::from_bytes([7; 32]), b"an organization");
    let position = |offset| RecordPosition { partition: 2, offset, appended_at_ms: 1 }.to_bytes();
    let golden: Vec<Vec<u8>> = [3, i64::MAX]
        .iter()
        .map(|offset| key.seal_stable_token(TOKEN_PURPOSE, org, &position(*offset)).into_bytes())
        .collect();
    drive("position token", &Samples { golden: &golden, tokens: ANY_TEXT, header: 32, large: 200_000 }, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Ok(DecodeOutcome::Refused) };
        match key.open_stable_token(TOKEN_PURPOSE, org, text) {
            Some(plain)
                if golden.iter().any(|token| token == bytes) && RecordPosition::from_bytes(&plain).is_some() =>
            {
                Ok(DecodeOutcome::Read)
            }
            Some(_) => Err("a token was forged".to_owned()),
            None => Ok(DecodeOutcome::Refused),
        }
    });
}
