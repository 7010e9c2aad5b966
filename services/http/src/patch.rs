//! Members of a PATCH.

use serde::{Deserialize, Deserializer};

/// A member of a PATCH: absent, which changes nothing, or its new value. `null` is a value only if `T` has it, as
/// `Option<_>` does; otherwise it is refused.
///
/// The field needs `#[serde(default)]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchMember<T>(pub Option<T>);

impl<T> Default for PatchMember<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for PatchMember<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(|value| Self(Some(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Patch {
        name: PatchMember<String>,
        expires_at: PatchMember<Option<u8>>,
    }

    #[test]
    fn null_is_a_value_only_where_it_may_be() {
        let read = serde_json::from_str::<Patch>;
        assert_eq!(read("{}").unwrap(), Patch::default());
        assert_eq!(read(r#"{"expires_at": null}"#).unwrap().expires_at, PatchMember(Some(None)));
        assert_eq!(read(r#"{"expires_at": 1}"#).unwrap().expires_at, PatchMember(Some(Some(1))));
        assert_eq!(read(r#"{"name": "a"}"#).unwrap().name, PatchMember(Some("a".to_owned())));
        assert!(read(r#"{"name": null}"#).unwrap_err().to_string().contains("null"), "a name cannot be empty");
    }
}
