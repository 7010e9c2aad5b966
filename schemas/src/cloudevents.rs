//! stub
use crate::event_json::{Invalid, NewEvent};

/// x
pub fn structured(_body: &[u8]) -> Result<NewEvent, Invalid> {
    Err(Invalid::Malformed { message: String::new() })
}
/// x
pub fn batch(_body: &[u8]) -> Result<Vec<Result<NewEvent, Invalid>>, Invalid> {
    Err(Invalid::Malformed { message: String::new() })
}
/// x
pub fn binary<'a>(
    _attributes: impl Iterator<Item = (&'a str, &'a str)>,
    _content_type: Option<&str>,
    _body: &[u8],
) -> Result<NewEvent, Invalid> {
    Err(Invalid::Malformed { message: String::new() })
}
