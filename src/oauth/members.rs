//! How a member is found in a response whose members may have other names, at other places.
//!
//! Values are borrowed from the body until one is taken out, so that no copy of a secret is left behind in a tree.

use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::vocabulary::{Members, Pointer};
use crate::secret::Secret;

/// A member that is there twice, or of another type than it should be: nothing of the response is believed then.
pub(super) struct Unreadable;

/// A JSON value that was found valid, and is not taken apart yet.
#[derive(Clone, Copy)]
pub(super) struct Json<'a>(&'a RawValue);

impl<'a> Json<'a> {
    pub(super) fn new(value: &'a RawValue) -> Self {
        Self(value)
    }

    pub(super) fn is_object(self) -> bool {
        self.0.get().starts_with('{')
    }

    /// The value; the default of its type where it is absent.
    pub(super) fn take<T: DeserializeOwned>(self) -> Result<T, Unreadable> {
        serde_json::from_str(self.0.get()).map_err(|_| Unreadable)
    }

    /// A text, or a whole number as the text that it is written as.
    pub(super) fn text(self) -> Result<Option<Secret>, Unreadable> {
        let written = self.0.get();
        match written.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Ok(Some(Secret::new(written))),
            false => self.take(),
        }
    }

    /// The one refresh token of a document that has none where it is looked for: under another spelling of its name, or in
    /// an object that has no access token of its own, as it would belong to that. Of two that differ, neither.
    pub(super) fn stray_refresh_token(self) -> Option<Json<'a>> {
        let mut found = Vec::new();
        self.refresh_tokens_within(LOOKALIKE_DEPTH, &mut found);
        let first = *found.first()?;
        found.iter().all(|other| other.0.get() == first.0.get()).then_some(first)
    }

    fn refresh_tokens_within(self, depth: usize, found: &mut Vec<Json<'a>>) {
        if !self.is_object() {
            return;
        }
        for (name, value) in self.members() {
            if plain(&name) == "refreshtoken" && value.is_some_text() {
                found.push(value);
            } else if depth > 1 && !value.has_a_token() {
                value.refresh_tokens_within(depth - 1, found);
            }
        }
    }

    /// Whether a token is among its members, in any spelling.
    fn has_a_token(self) -> bool {
        self.is_object() && self.members().iter().any(|(name, value)| is_token(name) && value.is_some_text())
    }

    /// What a path leads to.
    pub(super) fn find(self, path: &[String]) -> Result<Option<Json<'a>>, Unreadable> {
        let Some((name, rest)) = path.split_first() else { return Ok(Some(self)) };
        let below = match self.0.get().as_bytes().first() {
            Some(b'{') => self.member(name)?,
            Some(b'[') => name.parse().ok().and_then(|index: usize| self.elements().into_iter().nth(index)),
            _ => None,
        };
        below.map_or(Ok(None), |below| below.find(rest))
    }

    fn member(self, name: &str) -> Result<Option<Json<'a>>, Unreadable> {
        let mut named = self.members().into_iter().filter(|(found, _)| **found == name).map(|(_, value)| value);
        let found = named.next();
        if named.next().is_some() { Err(Unreadable) } else { Ok(found) }
    }

    fn members(self) -> Vec<(Zeroizing<String>, Json<'a>)> {
        serde_json::from_str(self.0.get()).map(|Object(members)| members).unwrap_or_default()
    }

    fn elements(self) -> Vec<Json<'a>> {
        let elements: Vec<&RawValue> = serde_json::from_str(self.0.get()).unwrap_or_default();
        elements.into_iter().map(Json).collect()
    }

    /// The object that holds the tokens: the first of those where they may be that has one, or else the first that is there.
    pub(super) fn token_object(self, members: &Members) -> Result<Option<Json<'a>>, Unreadable> {
        if members.within.is_empty() {
            return Ok(Some(self));
        }
        let mut first = None;
        for within in &members.within {
            let Some(object) = self.find(&within.0)?.filter(|object| object.is_object()) else { continue };
            for (pointer, name) in [(&members.access_token, "access_token"), (&members.id_token, "id_token")] {
                if object.at(pointer.as_ref(), name)?.is_some_and(Json::is_some_text) {
                    return Ok(Some(object));
                }
            }
            first = first.or(Some(object));
        }
        Ok(first)
    }

    /// What the pointer leads to, or the member of that name where there is no pointer.
    pub(super) fn at(self, pointer: Option<&Pointer>, name: &str) -> Result<Option<Json<'a>>, Unreadable> {
        match pointer {
            Some(pointer) => self.find(&pointer.0),
            None => self.find(&[name.to_owned()]),
        }
    }

    fn is_some_text(self) -> bool {
        self.0.get().starts_with('"') && self.0.get() != "\"\""
    }

    /// Where something stands that has the name of a token in any spelling and is not where it is looked for. The names on
    /// the way are the server's.
    pub(super) fn lookalike(self) -> Option<Vec<Zeroizing<String>>> {
        self.lookalike_within(LOOKALIKE_DEPTH)
    }

    fn lookalike_within(self, depth: usize) -> Option<Vec<Zeroizing<String>>> {
        if !self.is_object() {
            return None;
        }
        let members = self.members();
        if let Some((name, _)) = members.iter().find(|(name, value)| is_token(name) && value.is_some_text()) {
            return Some(vec![name.clone()]);
        }
        members.into_iter().filter(|_| depth > 1).find_map(|(name, value)| {
            let below = value.lookalike_within(depth - 1)?;
            Some([name].into_iter().chain(below).collect())
        })
    }
}

/// No provider has been seen to go deeper.
const LOOKALIKE_DEPTH: usize = 4;

fn is_token(name: &str) -> bool {
    matches!(plain(name).as_str(), "accesstoken" | "idtoken")
}

/// A name without what tells spellings apart: `accesstoken` for `access_token`, `accessToken`, `AccessToken`.
pub(super) fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The members of a form-encoded body, in its order.
pub(super) struct Fields(Vec<(Zeroizing<String>, Secret)>);

impl Fields {
    /// Reads the pairs; `None` if a name is there twice.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut fields: Vec<(Zeroizing<String>, Secret)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            if fields.iter().any(|(seen, _)| **seen == name) {
                return None;
            }
            fields.push((Zeroizing::new(name.into_owned()), Secret::new(value)));
        }
        Some(Self(fields))
    }

    /// The value of that name, or of the pointer's, if it is one name.
    pub(super) fn at(&self, pointer: Option<&Pointer>, name: &str) -> Option<&Secret> {
        let name = match pointer {
            Some(Pointer(segments)) => segments.first().filter(|_| segments.len() == 1)?,
            None => name,
        };
        self.0.iter().find(|(found, _)| **found == name).map(|(_, value)| value)
    }
}

impl Fields {
    /// The value whose name is `refresh_token` in another spelling, if there is one.
    pub(super) fn stray_refresh_token(&self) -> Option<&Secret> {
        let mut found = self.0.iter().filter(|(name, value)| plain(name) == "refreshtoken" && !value.is_empty());
        let first = found.next().map(|(_, value)| value);
        if found.next().is_some() { None } else { first }
    }
}

/// All members of an object, also those of the same name.
struct Object<'a>(Vec<(Zeroizing<String>, Json<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = members.next_entry::<String, &'de RawValue>()? {
                    pairs.push((Zeroizing::new(name), Json(value)));
                }
                Ok(Object(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}
