//! Answers to what never became a request: one connection too many, and heads that hyper refuses by itself with a bare
//! status.
//!
//! They are problems like every other error, with an id of their own. What was refused is not known, so their
//! `instance` is the root.

use http::StatusCode;

use super::context::made_id;
use super::problem::Problem;

/// To a connection that finds no place.
pub(super) fn too_many_connections() -> Vec<u8> {
    let problem = Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too_many_connections",
        "too many connections are open; try again shortly",
    );
    written(&problem, StatusCode::SERVICE_UNAVAILABLE, "retry-after: 1\r\n")
}

/// What to send in the place of `head`, if that is an answer of hyper's own: a head alone, without a body. `None` for
/// ours, which all name the request, and for a piece of a body.
pub(super) fn in_place_of(head: &[u8]) -> Option<Vec<u8>> {
    let head = Some(head).filter(|head| head.ends_with(b"\r\n\r\n"))?;
    let status = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let ours = head.windows(b"\r\nx-request-id:".len()).any(|window| window.eq_ignore_ascii_case(b"\r\nx-request-id:"));
    let status = StatusCode::from_bytes(status).ok().filter(|status| status.is_client_error() && !ours)?;
    Some(written(&Problem::from_status(status), status, ""))
}

fn written(problem: &Problem, status: StatusCode, header: &str) -> Vec<u8> {
    let id = made_id();
    let body = problem.body(status, "/", &id);
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nx-request-id: {id}\r\nx-correlation-id: {id}\r\nx-response-time: 0ms\r\n{header}connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(&body);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_names_no_request_is_replaced() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let answer = String::from_utf8(in_place_of(bare).unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{answer}");
        assert!(answer.contains("\"error_code\":\"headers_too_large\""), "{answer}");
        for kept in [
            &b"HTTP/1.1 404 Not Found\r\nX-Request-Id: 1\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"{}",
            b"HTTP/1.1 400 Bad Request\r\n\r\n{}",
            b"",
        ] {
            assert_eq!(in_place_of(kept), None);
        }
    }
}
