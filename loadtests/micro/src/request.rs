//! The bodies of requests, as the load generator (`loadtests/bench`) writes them.

/// Length of each payload, bytes.
pub const PAYLOAD_BYTES: usize = 600;
/// Events of a batch.
pub const BATCH_EVENTS: usize = 100;
/// Event type of each event.
pub const EVENT_TYPE: &str = "load.order.created";

/// The payload of an event with this number.
pub fn payload(number: usize) -> String {
    let start = format!("{{\"order\":\"{number:012}\",\"lines\":[");
    let (line, end) = ("{\"sku\":\"A-1001\",\"quantity\":2,\"price\":\"19.90\"}", "],\"note\":\"\"}");
    let room = PAYLOAD_BYTES - start.len() - end.len();
    // With a comma after each line but the last.
    let count = (room + 1) / (line.len() + 1);
    let lines = vec![line; count].join(",");
    let filler = "x".repeat(room - lines.len());
    format!("{start}{lines}],\"note\":\"{filler}\"}}")
}

/// The body of `POST /v1/events`. `keyed`: it has a dedup id.
pub fn event(number: usize, keyed: bool) -> Vec<u8> {
    let dedup_id = if keyed { format!("\"dedup_id\":\"run-{number:012}\",") } else { String::new() };
    format!("{{\"event_type\":\"{EVENT_TYPE}\",{dedup_id}\"payload\":{}}}", payload(number)).into_bytes()
}

/// The body of `POST /v1/events/batch`, with [`BATCH_EVENTS`] events.
pub fn batch() -> Vec<u8> {
    let events: Vec<Vec<u8>> = (0..BATCH_EVENTS).map(|number| event(number, false)).collect();
    [b"{\"events\":[".as_slice(), &events.join(&b','), b"]}"].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_payload_is_json_of_the_exact_size() {
        for number in [0, 7, 999_999] {
            let payload = payload(number);
            assert_eq!(payload.len(), PAYLOAD_BYTES);
            let json: Value = serde_json::from_str(&payload).unwrap();
            assert_eq!(json["order"], format!("{number:012}"));
            assert_eq!(json["lines"].as_array().unwrap().len(), 11, "most of it is lines, not filler");
        }
        let keyed: Value = serde_json::from_slice(&event(7, true)).unwrap();
        assert_eq!(keyed["dedup_id"], "run-000000000007");
    }
}
