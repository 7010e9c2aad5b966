//! The bytes of the requests: a head per organization, and a body. In a load of one size and one type only the numbers
//! change from body to body, so it is built once.
//!
//! Sending them and reading the reply is in `connection`.

use std::io::Write;

use loadkit::{EVENT_TYPE, ORDER_DIGITS, ORDER_START, order};

use crate::organizations::Organization;
use crate::scenario::Load;
use crate::target::Address;
use crate::variation::{self, PayloadBytes, Shares};

/// Start of the dedup key in the text of an event.
const DEDUP_START: &str = "\"dedup_id\":\"";

/// Where events are posted, and what an accepted one is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    /// In it, `{organization}` is replaced by the index of the organization.
    pub path: &'static str,
    /// Every answer from 200 to 206 means accepted. Otherwise it must have an `event_id` too.
    pub any_success: bool,
}

/// Requests, one per number.
pub(crate) struct Requests {
    /// `Route::any_success`.
    pub any_success: bool,
    /// The head of each organization, up to the length of the body.
    heads: Vec<Vec<u8>>,
    body: Body,
    /// Whether organizations get different shares of the requests.
    shares: Shares,
}

enum Body {
    /// Requests without one; their heads are complete.
    None,
    /// All events are alike but for their numbers, at these offsets of each event.
    Alike { text: Vec<u8>, number_offsets: Vec<Vec<usize>> },
    /// Size and type differ from event to event.
    Varied(Varied),
}

struct Varied {
    payload_bytes: PayloadBytes,
    event_types: usize,
    dedup_run: Option<String>,
    batch_events: usize,
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
        let dedup_run = load.keyed.then_some(run);
        let body = match load.payload_bytes.fixed() {
            Some(bytes) if load.event_types <= 1 => alike(bytes, dedup_run, load.batch_events),
            _ => Body::Varied(Varied {
                payload_bytes: load.payload_bytes,
                event_types: load.event_types,
                dedup_run: dedup_run.map(str::to_owned),
                batch_events: load.batch_events,
            }),
        };
        let head = |(index, organization): (usize, &Organization)| {
            let path = route.path.replace("{organization}", &index.to_string());
            let mut head = head("POST", &path, address, organization);
            head.push_str("content-type: application/json\r\ncontent-length: ");
            head.into_bytes()
        };
        let heads = organizations.iter().enumerate().map(head).collect();
        Self { any_success: route.any_success, heads, body, shares: load.shares }
    }

    /// Requests `GET path`, all alike. Every success is accepted.
    pub(crate) fn reads(address: &Address, organization: &Organization, path: &str) -> Self {
        let head = head("GET", path, address, organization) + "\r\n";
        Self { any_success: true, heads: vec![head.into_bytes()], body: Body::None, shares: Shares::Even }
    }

    /// Index of the organization of request `number`.
    pub(crate) fn organization_of(&self, number: u64) -> usize {
        self.shares.organization(number, self.heads.len())
    }

    /// Replaces the content of `buffer` by request `number`.
    pub(crate) fn write(&self, number: u64, buffer: &mut Vec<u8>) {
        buffer.clear();
        if let Some(head) = self.heads.get(self.organization_of(number)) {
            buffer.extend_from_slice(head);
        }
        match &self.body {
            Body::None => {}
            Body::Alike { text, number_offsets } => {
                end_head(buffer, text.len());
                let body_at = buffer.len();
                buffer.extend_from_slice(text);
                let first = number * number_offsets.len() as u64;
                for (event, offset) in
                    (first..).zip(number_offsets).flat_map(|(event, all)| all.iter().map(move |offset| (event, offset)))
                {
                    write_number(event, &mut buffer[body_at + offset..body_at + offset + ORDER_DIGITS]);
                }
            }
            Body::Varied(varied) => {
                let body = varied.body(number);
                end_head(buffer, body.len());
                buffer.extend_from_slice(body.as_bytes());
            }
        }
    }
}

impl Varied {
    fn body(&self, number: u64) -> String {
        if self.batch_events <= 1 {
            return self.event(number);
        }
        let first = number * self.batch_events as u64;
        let events: Vec<String> = (first..first + self.batch_events as u64).map(|event| self.event(event)).collect();
        format!("{{\"events\":[{}]}}", events.join(","))
    }

    fn event(&self, number: u64) -> String {
        let event_type = variation::event_type(number, self.event_types);
        event_text(&event_type, self.dedup_run.as_deref(), number, self.payload_bytes.of(number))
    }
}

fn head(method: &str, path: &str, address: &Address, organization: &Organization) -> String {
    let Address { authority, path: prefix, .. } = address;
    format!("{method} {prefix}{path} HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {}\r\n", organization.key)
}

fn end_head(buffer: &mut Vec<u8>, body_bytes: usize) {
    // Writing to a vector cannot fail.
    write!(buffer, "{body_bytes}\r\n\r\n").ok();
}

fn write_number(number: u64, digits: &mut [u8]) {
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// A body of one event, or of a batch of copies of it, and the offsets of the number in each.
fn alike(payload_bytes: usize, dedup_run: Option<&str>, batch_events: usize) -> Body {
    let event = event_text(EVENT_TYPE, dedup_run, 0, payload_bytes);
    let dedup_offset = dedup_run.and_then(|run| Some(event.find(DEDUP_START)? + DEDUP_START.len() + run.len() + 1));
    let order_offset = event.find(ORDER_START).map(|at| at + ORDER_START.len());
    let offsets: Vec<usize> = dedup_offset.into_iter().chain(order_offset).collect();
    if batch_events <= 1 {
        return Body::Alike { text: event.into_bytes(), number_offsets: vec![offsets] };
    }
    let mut text = b"{\"events\":[".to_vec();
    let mut number_offsets = Vec::with_capacity(batch_events);
    for index in 0..batch_events {
        if index > 0 {
            text.push(b',');
        }
        number_offsets.push(offsets.iter().map(|offset| text.len() + offset).collect());
        text.extend_from_slice(event.as_bytes());
    }
    text.extend_from_slice(b"]}");
    Body::Alike { text, number_offsets }
}

/// The JSON text of event `number`.
fn event_text(event_type: &str, dedup_run: Option<&str>, number: u64, payload_bytes: usize) -> String {
    let dedup = dedup_run.map(|run| format!("{DEDUP_START}{run}-{number:0ORDER_DIGITS$}\",")).unwrap_or_default();
    format!("{{\"event_type\":\"{event_type}\",{dedup}\"payload\":{}}}", order(number, payload_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Pace;
    use crate::variation::MIN_PAYLOAD_BYTES;
    use serde_json::Value;
    use serde_json::value::RawValue;

    fn requests(payload_bytes: usize, run: Option<&str>) -> Requests {
        requests_of(payload_bytes, run, 1)
    }

    fn requests_of(payload_bytes: usize, run: Option<&str>, batch_events: usize) -> Requests {
        varied_requests(PayloadBytes::exactly(payload_bytes), 1, run, batch_events)
    }

    fn varied_requests(
        payload_bytes: PayloadBytes,
        event_types: usize,
        run: Option<&str>,
        batch_events: usize,
    ) -> Requests {
        let address = Address { authority: "127.0.0.1:80".to_owned(), path: String::new(), port: 80 };
        let organizations: Vec<_> =
            ["k1", "key-2"].iter().map(|key| Organization { id: uuid::Uuid::nil(), key: (*key).to_owned() }).collect();
        let second = std::time::Duration::from_secs(1);
        let load = Load {
            pace: Pace::Closed { warm_up: second, measured: second },
            measured: second,
            connections: 1,
            payload_bytes,
            event_types,
            batch_events,
            organizations: organizations.len(),
            shares: Shares::Even,
            keyed: run.is_some(),
            timeout: second,
            client_threads: 1,
            stops: true,
            reads_per_second: 0,
            preload_events: 0,
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

    #[test]
    fn varied_events_have_their_length_type_and_number() {
        let range: PayloadBytes = "500-5000".parse().unwrap();
        let requests = varied_requests(range, 3, Some("run7"), 2);
        let mut buffer = Vec::new();
        let mut types = std::collections::BTreeSet::new();
        for number in 0..20 {
            requests.write(number, &mut buffer);
            let (head, body) = parts(&buffer);
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
            let value: Value = serde_json::from_str(&body).unwrap();
            for (index, event) in value["events"].as_array().unwrap().iter().enumerate() {
                let event_number = number * 2 + index as u64;
                assert_eq!(event["dedup_id"], format!("run7-{event_number:012}"));
                assert_eq!(event["payload"]["order"], format!("{event_number:012}"));
                types.insert(event["event_type"].as_str().unwrap().to_owned());
            }
            // serde_json changes the order of members, not their length.
            let lengths = value["events"].as_array().unwrap().iter().map(|event| event["payload"].to_string().len());
            assert!(lengths.eq([range.of(number * 2), range.of(number * 2 + 1)]));
        }
        assert_eq!(types.len(), 3);
    }

    #[test]
    fn a_read_has_no_body() {
        let address = Address { authority: "127.0.0.1:80".to_owned(), path: "/api".to_owned(), port: 80 };
        let organization = Organization { id: uuid::Uuid::nil(), key: "k1".to_owned() };
        let requests = Requests::reads(&address, &organization, "/v1/inbox?limit=50");
        let mut buffer = Vec::new();
        requests.write(3, &mut buffer);
        let text = String::from_utf8(buffer).unwrap();
        assert!(text.starts_with("GET /api/v1/inbox?limit=50 HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with("Bearer k1\r\n\r\n"), "{text}");
    }
}
