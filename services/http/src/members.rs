//! The members of a JSON body, checked before it becomes a value: a name that the route does not know, a name twice in
//! one object, at any depth, and the names by which serde_json signals to itself, which it would obey.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor, value};
use serde::forward_to_deserialize_any;

use super::nearest::unknown;
use super::problem::FieldError;

/// Prefix of the names that serde_json gives a meaning of its own: an object whose first member is one of them becomes
/// the value that its text holds.
const PRIVATE_PREFIX: &str = "$serde_json::private::";
const WHAT: &str = "a member of this body";

/// Why a body is refused.
pub(super) enum BodyError {
    /// It is not JSON.
    Syntax(serde_json::Error),
    /// One of its members may not be there.
    Member(FieldError),
}

/// Checks the members of `body`. `known`: the names of its own members, if the route declares them.
pub(super) fn check(body: &[u8], known: Option<&[&str]>) -> Result<(), BodyError> {
    let refused = RefCell::new(None);
    let mut json = serde_json::Deserializer::from_slice(body);
    let checked = Checked { path: &Path::Root, known, refused: &refused }.deserialize(&mut json);
    match (checked.and_then(|()| json.end()), refused.into_inner()) {
        (_, Some(error)) => Err(BodyError::Member(error)),
        (Err(error), None) => Err(BodyError::Syntax(error)),
        (Ok(()), None) => Ok(()),
    }
}

/// The refusal of a member that is not among `known`; `None` if all are.
pub(super) fn first_unknown<'a>(names: impl IntoIterator<Item = &'a String>, known: &[&str]) -> Option<FieldError> {
    let name = names.into_iter().find(|name| !known.contains(&name.as_str()))?;
    Some(FieldError::new(name, unknown(name, WHAT, known)))
}

/// Where a value is in the body.
enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(Self::Root, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Reads one value and keeps nothing of it.
struct Checked<'a> {
    path: &'a Path<'a>,
    known: Option<&'a [&'a str]>,
    refused: &'a RefCell<Option<FieldError>>,
}

impl Checked<'_> {
    fn inside<'b>(&'b self, path: &'b Path<'b>) -> Checked<'b> {
        Checked { path, known: None, refused: self.refused }
    }

    fn refuse<E: serde::de::Error>(&self, name: &str, reason: impl Into<String>) -> E {
        let path = Path::Member(self.path, name).to_string();
        self.refused.replace(Some(FieldError::new(&path, reason)));
        E::custom("a member is refused")
    }
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if let Some(known) = self.known
                && !known.contains(&name.as_str())
            {
                return Err(self.refuse(&name, unknown(&name, WHAT, known)));
            }
            if name.starts_with(PRIVATE_PREFIX) {
                return Err(self.refuse(&name, format!("is not {WHAT}")));
            }
            if seen.contains(&name) {
                return Err(self.refuse(&name, "is given twice"));
            }
            map.next_value_seed(self.inside(&Path::Member(self.path, &name)))?;
            seen.insert(name);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        while items.next_element_seed(self.inside(&Path::Item(self.path, index)))?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The names that `T` reads, aliases among them, if it is a struct; `None` for anything else.
pub(super) fn members_of<'de, T: Deserialize<'de>>() -> Option<&'static [&'static str]> {
    let mut names = None;
    // It always fails: the names are there before a value could be.
    drop(T::deserialize(Names(&mut names)).err());
    names
}

/// Is asked for a struct and remembers the names of its members. serde has no other way to list them.
struct Names<'a>(&'a mut Option<&'static [&'static str]>);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
        Err(value::Error::custom("only names are wanted"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, value::Error> {
        *self.0 = Some(fields);
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, value::Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str, known: Option<&[&str]>) -> Option<String> {
        match check(body.as_bytes(), known) {
            Ok(()) => None,
            Err(BodyError::Member(error)) => Some(error.to_string()),
            Err(BodyError::Syntax(error)) => Some(format!("syntax: {error}")),
        }
    }

    #[test]
    fn a_member_twice_is_refused_at_any_depth() {
        for (body, place) in [
            (r#"{"a": 1, "a": 1}"#, "a"),
            (r#"{"a": 1, "\u0061": 1}"#, "a"),
            (r#"{"h": {"x": 1, "y": 2, "x": 3}}"#, "h.x"),
            (r#"[{"f": [0, {"x": null, "x": {}}]}]"#, "[0].f[1].x"),
        ] {
            assert_eq!(refused(body, None), Some(format!("{place} is given twice")));
        }
        assert_eq!(refused(r#"{"a": {"a": [{"a": 1}, {"a": 1}]}, "b": {"a": 1}}"#, None), None);
    }

    #[test]
    fn names_that_serde_json_would_obey_are_no_members() {
        for name in ["RawValue", "Number", "Anything"] {
            let body = format!(r#"{{"url": {{"$serde_json::private::{name}": "1"}}}}"#);
            assert!(refused(&body, None).unwrap().ends_with("is not a member of this body"), "{body}");
        }
    }

    /// With the feature `arbitrary_precision` of serde_json, every number would be such an object.
    #[test]
    fn scalars_are_no_objects() {
        assert_eq!(refused(r#"[1, -1, 1.5, 12345678901234567890123, 1e300, "x", true, null, {}]"#, None), None);
        assert!(refused("[1e400]", None).unwrap().contains("number out of range"), "serde_json holds numbers as f64");
    }

    #[test]
    fn the_names_of_a_struct_are_known_with_aliases() {
        #[derive(Deserialize)]
        #[expect(dead_code, reason = "only its names are read")]
        struct Known {
            #[serde(alias = "org_name")]
            organization_name: String,
            #[serde(rename = "type")]
            kind: Option<u8>,
        }
        let known = members_of::<Known>().unwrap();
        assert_eq!(known, ["org_name", "organization_name", "type"]);
        assert_eq!(members_of::<serde_json::Map<String, serde_json::Value>>(), None);
        assert_eq!(refused(r#"{"org_name": {"anything": 1}, "type": 1}"#, Some(known)), None);
        let reason = "organisation_name is not a member of this body; did you mean organization_name?";
        assert_eq!(refused(r#"{"organisation_name": 1}"#, Some(known)).as_deref(), Some(reason));
    }

    #[test]
    fn a_body_that_is_not_json_is_no_matter_of_members() {
        for body in ["", "{", "{\"a\": 1} x", "{\"a\": \"\\ud800\"}", &"[".repeat(100_000)] {
            assert!(refused(body, None).unwrap().starts_with("syntax: "));
        }
    }
}
