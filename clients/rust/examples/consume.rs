//! Prints events as they arrive, and acknowledges each. Ends after COUNT events, or never.
//!
//! `cargo run -p triggers-client --example consume COUNT`

use triggers_client::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    let count = std::env::args().nth(1).map(|count| count.parse()).transpose()?;

    let mut events = client.inbox().limit(100).events();
    for _ in 0..count.unwrap_or(u64::MAX) {
        let event = events.next().await?;
        println!("{} {} {}", event.event_id, event.event_type, event.payload);
        // After the work is done. An event that is not acknowledged comes again after a restart.
        client.ack([event.event_id]).await?;
    }
    Ok(())
}
