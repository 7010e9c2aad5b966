//! Events that are webhooks of a Triggers system: a loop of endpoints that send their events back must end. Pure.

use http::{HeaderMap, StatusCode};
use http_server::{FieldError, Problem};
use schemas::headers::HOPS;
use schemas::hops::{self, MAX_HOPS};

/// Through how many webhooks the events of a request came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hops(Option<String>);

impl Hops {
    /// Reads the header `triggers-hops`; without it, the events came through none.
    ///
    /// # Errors
    /// The invalid code if it is no small number or is given twice, and 508 above [`MAX_HOPS`].
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(HOPS).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        if values.next().is_some() {
            return Err(invalid("is given more than once"));
        }
        let hops = hops::parse(value.as_bytes()).ok_or_else(|| invalid("must be a whole number from 0 to 255"))?;
        if hops > MAX_HOPS {
            let detail = format!(
                "{HOPS} is {hops}: the event came through more than {MAX_HOPS} webhooks, so an endpoint sends its \
                 events back to this API"
            );
            return Err(Problem::new(StatusCode::LOOP_DETECTED, "loop_detected", detail));
        }
        Ok(Self((hops > 0).then(|| hops.to_string())))
    }

    /// The header of the events' records.
    pub(crate) fn record_header(&self) -> Option<(&'static str, &[u8])> {
        self.0.as_ref().map(|hops| (HOPS, hops.as_bytes()))
    }
}

fn invalid(reason: &str) -> Problem {
    let details = vec![FieldError::new(HOPS, reason)];
    Problem::invalid("invalid_request", format!("{HOPS} {reason}")).with_details(details)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_server::Dialect;

    use super::*;

    fn read(values: &[&[u8]]) -> Result<Option<String>, (u16, &'static str)> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HOPS, HeaderValue::from_bytes(value).unwrap());
        }
        let answer = |problem: Problem| (problem.status(Dialect::Canonical).as_u16(), problem.error_code());
        Hops::of(&headers).map(|hops| hops.0).map_err(answer)
    }

    #[test]
    fn at_most_three_hops_go_onto_the_record() {
        assert_eq!((read(&[]), read(&[b"0"])), (Ok(None), Ok(None)));
        assert_eq!((read(&[b"1"]), read(&[b"3"])), (Ok(Some("1".to_owned())), Ok(Some("3".to_owned()))));
        for too_many in [&b"4"[..], b"5", b"255"] {
            assert_eq!(read(&[too_many]), Err((508, "loop_detected")));
        }
    }

    #[test]
    fn anything_but_one_small_number_is_invalid() {
        for value in [&b""[..], b"x", b"-1", b"01", b"1.0", b"256", b"1, 1", b"\xff"] {
            assert_eq!(read(&[value]), Err((400, "invalid_request")), "{value:?}");
        }
        assert_eq!(read(&[b"1", b"1"]), Err((400, "invalid_request")), "given twice");
    }
}
