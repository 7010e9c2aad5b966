//! Sends one order, and then the items of it as a batch.
//!
//! `cargo run -p triggers-client --example produce ORDER`

use serde_json::json;
use triggers_client::{Client, Error, Event};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let client = Client::from_env()?;
    let order = std::env::args().nth(1).unwrap_or_else(|| "7".to_owned());

    // Running this again with the same order stores nothing twice: the dedup id names it.
    let event = Event::new("order.created", &json!({"id": order, "total": "12.50"}))?
        .dedup_id(format!("order-{order}"))
        .metadata("example", "produce");
    let accepted = client.send(&event).await?;
    println!("order {} {}", accepted.event_id, if accepted.duplicate { "was there" } else { "is new" });

    let items = ["apples", "pears", "plums"].map(|name| {
        let item = Event::new("order.item", &json!({"order": order, "name": name}));
        item.map(|item| item.dedup_id(format!("order-{order}-{name}")))
    });
    let items = items.into_iter().collect::<Result<Vec<_>, _>>()?;
    for (index, result) in client.send_batch(items).await.into_iter().enumerate() {
        match result {
            Ok(accepted) => println!("item {index} {}", accepted.event_id),
            Err(error) if error.is_retryable() => eprintln!("item {index}: send it later: {error}"),
            Err(error) => eprintln!("item {index}: {error}"),
        }
    }
    Ok(())
}
