//! Makes a typed value out of JSON, strictly: an object is read from an object only, never from an array, and a refusal
//! says plainly what is wanted. It never has the texts of serde, which name types of this program.

use std::fmt;

use serde::Deserialize;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::nearest::unknown;
use super::problem::FieldError;

/// Reads a `T`. The members of `value` have been checked.
///
/// # Errors
/// The place in the body, which is empty for the body itself, and what is wanted there.
pub(super) fn read<T: for<'de> Deserialize<'de>>(value: Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(Json(value)).map_err(|error| {
        let path = error.path().to_string();
        let parent = if path == "." { "" } else { &path };
        let Misfit { reason, missing } = error.into_inner();
        let field = match (parent, missing) {
            (parent, None) => parent.to_owned(),
            ("", Some(name)) => name.to_owned(),
            (parent, Some(name)) => format!("{parent}.{name}"),
        };
        FieldError::new(&field, reason)
    })
}

/// Why a value does not fit, as the part of a sentence after its place.
#[derive(Debug)]
struct Misfit {
    reason: String,
    /// The member of the place that it is about.
    missing: Option<&'static str>,
}

impl Misfit {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), missing: None }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    /// Only types of this workspace give a reason of their own; it continues the sentence.
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::new(reason.to_string())
    }

    fn invalid_type(given: Unexpected<'_>, expected: &dyn Expected) -> Self {
        if given == Unexpected::Unit {
            return Self::new("must not be null");
        }
        Self::new(wanted(&expected.to_string()))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(wanted(&expected.to_string()))
    }

    fn invalid_length(_: usize, _: &dyn Expected) -> Self {
        Self::new("has the wrong number of items")
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!("must be one of {}", known.join(", ")))
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!("has {name}, which {}", unknown(name, "one of its members", known)))
    }

    fn missing_field(name: &'static str) -> Self {
        Self { reason: "is missing".to_owned(), missing: Some(name) }
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self { reason: "is given twice".to_owned(), missing: Some(name) }
    }
}

/// What is wanted, in plain words. `expected`: as serde and its derives name it.
fn wanted(expected: &str) -> String {
    let plain = match expected {
        "a boolean" => "true or false",
        "a string" | "a borrowed string" | "a character" => "a text",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if expected.starts_with("struct ") => "an object",
        _ if expected.starts_with("enum ") || expected.starts_with("variant ") => "a text",
        // Types of this workspace say it themselves.
        _ if expected.starts_with("a ") || expected.starts_with("an ") => expected,
        _ => return "has another type than it must have".to_owned(),
    };
    format!("must be {plain}")
}

struct Json(Value);

impl Json {
    fn misfit(&self, expected: &dyn Expected) -> Misfit {
        let given = match &self.0 {
            Value::Null => Unexpected::Unit,
            Value::Bool(given) => Unexpected::Bool(*given),
            Value::Number(_) => Unexpected::Other("number"),
            Value::String(given) => Unexpected::Str(given),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        };
        de::Error::invalid_type(given, expected)
    }
}

impl<'de> IntoDeserializer<'de, Misfit> for Json {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Json {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => {
                if let Some(value) = number.as_u64() {
                    visitor.visit_u64(value)
                } else if let Some(value) = number.as_i64() {
                    visitor.visit_i64(value)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or_default())
                }
            }
            Value::String(value) => visitor.visit_string(value),
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Json))),
            Value::Object(members) => {
                visitor.visit_map(MapDeserializer::new(members.into_iter().map(|(name, value)| (name, Json(value)))))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    /// The derived visitor would take an array, too.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        if self.0.is_object() { self.deserialize_any(visitor) } else { Err(self.misfit(&visitor)) }
    }

    /// A map of serde_json would take null, too.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        if self.0.is_object() { self.deserialize_any(visitor) } else { Err(self.misfit(&visitor)) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(name.into_deserializer()),
            _ => Err(self.misfit(&visitor)),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::PatchMember;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Color {
        Red,
        Blue,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only whether it can be read is tested")]
    struct Inner {
        size: u32,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only whether it can be read is tested")]
    struct Outer {
        name: String,
        #[serde(default)]
        color: PatchMember<Color>,
        inner: Option<Inner>,
        list: Option<Vec<Inner>>,
        flag: Option<bool>,
        signed: Option<i64>,
        by_name: Option<BTreeMap<String, f64>>,
        any: Option<Value>,
    }

    #[test]
    fn what_fits_is_read() {
        for fit in [
            json!({"name": "a"}),
            json!({"name": "a", "color": "red", "inner": {"size": 1}, "list": [{"size": u32::MAX}, {"size": 0}]}),
            json!({"name": "a", "inner": null, "flag": true, "signed": -1, "by_name": {"x": 1.5}}),
            json!({"name": "a", "any": [{"a": [null]}]}),
        ] {
            read::<Outer>(fit.clone()).unwrap_or_else(|error| panic!("{fit}: {error}"));
        }
    }

    #[test]
    fn null_is_no_object() {
        for no_object in [json!(null), json!([])] {
            assert!(read::<serde_json::Map<String, Value>>(no_object).is_err());
        }
    }

    #[test]
    fn a_refusal_names_the_place_and_says_what_is_wanted() {
        let with = |name: &str, value: Value| {
            let mut body = json!({"name": "a"});
            body[name] = value;
            body
        };
        for (body, refusal) in [
            (json!([]), " must be an object"),
            (json!(["a", "red"]), " must be an object"),
            (json!(null), " must not be null"),
            (json!({}), "name is missing"),
            (with("name", json!(1)), "name must be a text"),
            (with("name", json!(null)), "name must not be null"),
            (with("name", json!([])), "name must be a text"),
            (with("color", json!(null)), "color must not be null"),
            (with("color", json!(["red"])), "color must be a text"),
            (with("color", json!({"red": null})), "color must be a text"),
            (with("color", json!("green")), "color must be one of red, blue"),
            (with("inner", json!([1])), "inner must be an object"),
            (with("inner", json!({})), "inner.size is missing"),
            (with("inner", json!({"size": -1})), "inner.size must be a whole number from 0 to 4294967295"),
            (with("inner", json!({"size": 1.0})), "inner.size must be a whole number from 0 to 4294967295"),
            (with("list", json!({})), "list must be a list"),
            (with("list", json!([{"size": 1}, [1]])), "list[1] must be an object"),
            (with("list", json!([{"size": "1"}])), "list[0].size must be a whole number from 0 to 4294967295"),
            (with("flag", json!("true")), "flag must be true or false"),
            (with("signed", json!(1.5)), "signed must be a whole number"),
            (with("by_name", json!([])), "by_name must be an object"),
            (with("by_name", json!({"x": "1"})), "by_name.x must be a number"),
        ] {
            assert_eq!(read::<Outer>(body.clone()).unwrap_err().to_string(), refusal, "{body}");
        }
    }
}
