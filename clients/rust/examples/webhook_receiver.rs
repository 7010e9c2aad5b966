//! Receives webhooks on 127.0.0.1:PORT/hook, and answers 204 to those that are signed.
//!
//! `WEBHOOK_SECRET=whsec_... cargo run -p triggers-client --example webhook_receiver PORT`

use std::time::SystemTime;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use triggers_client::webhook::{self, WebhookEvent};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secret = std::env::var("WEBHOOK_SECRET").map_err(|_| "set WEBHOOK_SECRET to the secret of the endpoint")?;
    let port = std::env::args().nth(1).map_or(Ok(9000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?);
    let router = Router::new().route("/hook", post(receive)).with_state(secret);
    axum::serve(listener, router).await?;
    Ok(())
}

async fn receive(State(secret): State<String>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if let Err(error) = webhook::verify(&secret, &headers, &body, SystemTime::now(), webhook::TOLERANCE) {
        eprintln!("refused: {error}");
        return StatusCode::UNAUTHORIZED;
    }
    match serde_json::from_slice::<WebhookEvent>(&body) {
        Ok(event) => {
            // An event can come more than once: store its id with the work, and skip one that is there already.
            println!("{} {} {}", event.event_id, event.event_type, event.data);
            StatusCode::NO_CONTENT
        }
        Err(error) => {
            eprintln!("not an event: {error}");
            StatusCode::BAD_REQUEST
        }
    }
}
