//! Strict parsing of query strings: a duplicate or out-of-range parameter is invalid. [`super::routes`] finds unknown
//! parameters.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use http::Uri;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;

use super::problem::{FieldError, Problem};
use super::timestamp::{InvalidTime, Timestamp};

/// The parameters of a request, decoded, in their order.
#[derive(Debug, Clone, Default)]
pub struct QueryParams(Vec<(String, String)>);

impl QueryParams {
    /// Decodes the query of `uri`.
    ///
    /// # Errors
    /// 400 (422 on `/api`) when it cannot be parsed or is not UTF-8. The decoder would put replacement characters
    /// there, and the handler would answer another query than the client sent.
    pub fn of(uri: &Uri) -> Result<Self, Problem> {
        if percent_decode_str(uri.query().unwrap_or_default()).decode_utf8().is_err() {
            return Err(Problem::invalid("invalid_request", "the query string is not UTF-8"));
        }
        match Query::<Vec<(String, String)>>::try_from_uri(uri) {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(_) => Err(Problem::invalid("invalid_request", "the query string is not readable")),
        }
    }

    /// The value of a parameter that may be given at most once.
    ///
    /// # Errors
    /// 400 (422 on `/api`) when it is given twice.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Self::invalid(name, "is given more than once")),
            (value, None) => Ok(value),
        }
    }

    /// The names in their order, repeated ones too.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// All values of a parameter that may be repeated.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter, parsed, within `range`.
    ///
    /// # Errors
    /// 400 (422 on `/api`) when it cannot be parsed, is out of range or is given twice.
    pub fn parse_in_range<T>(&self, name: &str, range: RangeInclusive<T>) -> Result<Option<T>, Problem>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.one(name)? else { return Ok(None) };
        match text.parse() {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => Err(Self::invalid(name, format!("must be from {} to {}", range.start(), range.end()))),
        }
    }

    /// `true` or `false`; a name without a value means `true`.
    ///
    /// # Errors
    /// 400 (422 on `/api`) for anything else, or when it is given twice.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.one(name)? {
            None => Ok(None),
            Some("true" | "1" | "") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(_) => Err(Self::invalid(name, "must be true or false")),
        }
    }

    /// The value of a parameter that is a time.
    ///
    /// # Errors
    /// 400 (422 on `/api`) when it is no [`Timestamp`] or is given twice.
    pub fn time(&self, name: &str) -> Result<Option<OffsetDateTime>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        match text.parse() {
            Ok(Timestamp(time)) => Ok(Some(time)),
            Err(reason @ InvalidTime) => Err(Self::invalid(name, reason.to_string())),
        }
    }

    /// The problem for an invalid parameter. `reason` continues a sentence that starts with its name.
    pub fn invalid(name: &str, reason: impl Into<String>) -> Problem {
        let error = FieldError::new(name, reason);
        Problem::invalid("invalid_request", error.to_string()).with_details(vec![error])
    }
}

impl<S: Sync> FromRequestParts<S> for QueryParams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(&parts.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> QueryParams {
        QueryParams::of(&format!("/inbox?{query}").parse().unwrap()).unwrap()
    }

    #[test]
    fn values_are_decoded_and_kept_by_name() {
        let params = params("event_type=a%2Fb&x=1&event_type=c+d&limit=7");
        assert_eq!(params.all("event_type").collect::<Vec<_>>(), ["a/b", "c d"]);
        assert_eq!(params.parse_in_range("limit", 1..=1000).unwrap(), Some(7));
        assert_eq!(params.one("cursor").unwrap(), None);
    }

    #[test]
    fn duplicate_unreadable_and_out_of_range_are_invalid() {
        assert!(params("limit=1&limit=1").one("limit").is_err());
        for limit in ["0", "1001", "-1", "1.5", "", "x", "99999999999999999999"] {
            assert!(params(&format!("limit={limit}")).parse_in_range("limit", 1_u32..=1000).is_err(), "{limit}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_invalid() {
        for query in ["event_type=%ff", "%c3%28=1", "a=b&event_type=%ed%a0%80"] {
            assert!(QueryParams::of(&format!("/inbox?{query}").parse().unwrap()).is_err(), "{query}");
        }
        assert_eq!(params("event_type=%C3%BC").one("event_type").unwrap(), Some("\u{fc}"));
    }

    #[test]
    fn flags_are_true_or_false() {
        let params = params("a=true&b=0&c&d=yes");
        assert_eq!(params.flag("a").unwrap(), Some(true));
        assert_eq!(params.flag("b").unwrap(), Some(false));
        assert_eq!(params.flag("c").unwrap(), Some(true));
        assert!(params.flag("d").is_err());
        assert_eq!(params.flag("e").unwrap(), None);
    }
}
