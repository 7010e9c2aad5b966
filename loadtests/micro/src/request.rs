//! The bodies of requests, as the load generator (`loadtests/bench`) writes them.

pub use loadkit::EVENT_TYPE;
use loadkit::order;

/// Length of each payload, bytes.
pub const PAYLOAD_BYTES: usize = 600;
/// Events of a batch.
pub const BATCH_EVENTS: usize = 100;
/// The payload of an event with this number.
pub fn payload(number: u64) -> String {
    order(number, PAYLOAD_BYTES)
}

/// The body of `POST /v1/events`. `keyed`: it has a dedup id.
pub fn event(number: u64, keyed: bool) -> Vec<u8> {
    let dedup_id = if keyed { format!("\"dedup_id\":\"run-{number:012}\",") } else { String::new() };
    format!("{{\"event_type\":\"{EVENT_TYPE}\",{dedup_id}\"payload\":{}}}", payload(number)).into_bytes()
}

/// The body of `POST /v1/events/batch`, with [`BATCH_EVENTS`] events.
pub fn batch() -> Vec<u8> {
    let events: Vec<Vec<u8>> = (0..BATCH_EVENTS as u64).map(|number| event(number, false)).collect();
    [b"{\"events\":[".as_slice(), &events.join(&b','), b"]}"].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_keyed_event_has_its_number_twice() {
        let keyed: Value = serde_json::from_slice(&event(7, true)).unwrap();
        assert_eq!(keyed["dedup_id"], "run-000000000007");
        assert_eq!(keyed["payload"]["order"], "000000000007");
    }
}
