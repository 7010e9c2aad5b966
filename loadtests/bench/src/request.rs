//! The bytes of the requests: a head per organization, and a body in which only the numbers of its events change.
//!
//! Sending them and reading the reply is in `connection`.

use loadkit::{EVENT_TYPE, ORDER_DIGITS, ORDER_START, order};

use crate::organizations::Organization;
use crate::scenario::Load;
use crate::target::Address;

/// Where events are posted, and what an accepted one is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    /// In it, `{organization}` is replaced by the index of the organization.
    pub path: &'static str,
    /// Every answer from 200 to 206 means accepted. Otherwise it must have an `event_id` too.
    pub any_success: bool,
}

/// Prebuilt requests, one per number. Organizations are used in turns.
pub(crate) struct Requests {
    /// `Route::any_success`.
    pub any_success: bool,
    heads: Vec<Vec<u8>>,
    body: Vec<u8>,
    /// Offsets of the number in the body, for each event.
    number_offsets: Vec<Vec<usize>>,
}

impl Requests {
    /// Requests `POST /v1/events` or `POST /v1/events/batch`, by the load.
    pub(crate) fn new(address: &Address, organizations: &[Organization], load: &Load, run: &str) -> Self {
        let path = if load.batch_events > 1 { "/v1/events/batch" } else { "/v1/events" };
        Self::on_route(Route { path, any_success: false }, address, organizations, load, run)
    }

    /// Requests to `address` with payloads of the exact size that `load` says; in a keyed load each event has its own
    /// `dedup_id`, which starts with `run`.
    pub(crate) fn on_route(
        route: Route,
        address: &Address,
        organizations: &[Organization],
        load: &Load,
        run: &str,
    ) -> Self {
        let (event, offsets) = event(load.payload_bytes, load.keyed.then_some(run));
        let (body, number_offsets) = match load.batch_events {
            0 | 1 => (event, vec![offsets]),
            events => batch(&event, &offsets, events),
        };
        let head = |(index, organization): (usize, &Organization)| {
            format!(
                "POST {}{} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\n\r\n",
                address.path,
                route.path.replace("{organization}", &index.to_string()),
                address.authority,
                organization.key,
                body.len()
            )
            .into_bytes()
        };
        let heads = organizations.iter().enumerate().map(head).collect();
        Self { any_success: route.any_success, heads, body, number_offsets }
    }

    /// Index of the organization of request `number`.
    pub(crate) fn organization_of(&self, number: u64) -> usize {
        usize::try_from(number % self.heads.len().max(1) as u64).unwrap_or(0)
    }

    /// Replaces the content of `buffer` by request `number`.
    pub(crate) fn write(&self, number: u64, buffer: &mut Vec<u8>) {
        buffer.clear();
        if let Some(head) = self.heads.get(self.organization_of(number)) {
            buffer.extend_from_slice(head);
        }
        let body_at = buffer.len();
        buffer.extend_from_slice(&self.body);
        let first = number * self.number_offsets.len() as u64;
        for (event, offsets) in (first..).zip(&self.number_offsets) {
            for offset in offsets {
                let mut rest = event;
                for digit in buffer[body_at + offset..body_at + offset + ORDER_DIGITS].iter_mut().rev() {
                    *digit = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
            }
        }
    }
}

/// The body of a batch of `events` copies of an event, and the offsets of the number in each.
fn batch(event: &[u8], offsets: &[usize], events: usize) -> (Vec<u8>, Vec<Vec<usize>>) {
    let mut body = b"{\"events\":[".to_vec();
    let mut all = Vec::with_capacity(events);
    for index in 0..events {
        if index > 0 {
            body.push(b',');
        }
        all.push(offsets.iter().map(|offset| body.len() + offset).collect());
        body.extend_from_slice(event);
    }
    body.extend_from_slice(b"]}");
    (body, all)
}

/// The JSON text of an event, and the offsets of the number in it.
fn event(payload_bytes: usize, dedup_run: Option<&str>) -> (Vec<u8>, Vec<usize>) {
    let zeros = "0".repeat(ORDER_DIGITS);
    let mut number_offsets = Vec::new();
    let mut body = format!("{{\"event_type\":\"{EVENT_TYPE}\",");
    if let Some(run) = dedup_run {
        body.push_str(&format!("\"dedup_id\":\"{run}-"));
        number_offsets.push(body.len());
        body.push_str(&format!("{zeros}\","));
    }
    body.push_str("\"payload\":");
    number_offsets.push(body.len() + ORDER_START.len());
    body.push_str(&order(0, payload_bytes));
    body.push('}');
    (body.into_bytes(), number_offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{MIN_PAYLOAD_BYTES, Pace};
    use serde_json::Value;
    use serde_json::value::RawValue;

    fn requests(payload_bytes: usize, run: Option<&str>) -> Requests {
        requests_of(payload_bytes, run, 1)
    }

    fn requests_of(payload_bytes: usize, run: Option<&str>, batch_events: usize) -> Requests {
        let address = Address { authority: "127.0.0.1:80".to_owned(), path: String::new(), port: 80 };
        let organizations: Vec<_> =
            ["k1", "key-2"].iter().map(|key| Organization { id: uuid::Uuid::nil(), key: (*key).to_owned() }).collect();
        let second = std::time::Duration::from_secs(1);
        let load = Load {
            pace: Pace::Closed { warm_up: second, measured: second },
            measured: second,
            connections: 1,
            payload_bytes,
            batch_events,
            organizations: organizations.len(),
            keyed: run.is_some(),
            timeout: second,
            client_threads: 1,
            stops: true,
        };
        Requests::new(&address, &organizations, &load, run.unwrap_or_default())
    }

    #[test]
    fn each_event_of_a_batch_has_its_own_number() {
        let requests = requests_of(600, Some("run7"), 3);
        let mut buffer = Vec::new();
        requests.write(5, &mut buffer);
        let (head, body) = parts(&buffer);
        assert!(head.starts_with("POST /v1/events/batch ") && head.contains("Bearer key-2"), "{head}");
        let value: Value = serde_json::from_str(&body).unwrap();
        let ids: Vec<&str> =
            value["events"].as_array().unwrap().iter().map(|event| event["dedup_id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["run7-000000000015", "run7-000000000016", "run7-000000000017"]);
    }

    fn parts(bytes: &[u8]) -> (String, String) {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    #[derive(serde::Deserialize)]
    struct EventBody<'a> {
        #[serde(borrow)]
        payload: &'a RawValue,
    }

    #[test]
    fn every_payload_has_the_exact_size_and_its_own_number() {
        for payload_bytes in [MIN_PAYLOAD_BYTES, 100, 600, 601, 4096] {
            let requests = requests(payload_bytes, None);
            let mut buffer = Vec::new();
            requests.write(1_234, &mut buffer);
            let (head, body) = parts(&buffer);
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            let raw: EventBody = serde_json::from_str(&body).unwrap();
            assert_eq!(raw.payload.get().len(), payload_bytes);
            let value: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(value["payload"]["order"], "000000001234");
            assert!(value.get("dedup_id").is_none());
        }
    }

    #[test]
    fn organizations_take_turns_and_keyed_events_differ() {
        let requests = requests(600, Some("run7"));
        let mut buffer = Vec::new();
        requests.write(6, &mut buffer);
        assert!(parts(&buffer).0.contains("Bearer k1\r\n"));
        requests.write(7, &mut buffer);
        let (head, body) = parts(&buffer);
        assert!(head.contains("Bearer key-2\r\n"));
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["dedup_id"], "run7-000000000007");
    }
}
