//! The bodies of requests for tokens: a form, or JSON for servers that want it.

use form_urlencoded::Serializer as FormSerializer;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::grant::{BodyFormat, Client};
use crate::secret::Secret;

/// A form's media type.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

const JSON: &str = "application/json";

/// Names and values, in the order in which they are sent. A name may be there several times.
pub(super) type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// The pairs under the names that this server has for them.
pub(super) fn renamed<'a>(pairs: Pairs<'a>, client: &'a Client) -> Pairs<'a> {
    let theirs = |name| client.form.names.iter().find(|(known, _)| known == name).map(|(_, theirs)| theirs.as_str());
    pairs.into_iter().map(|(name, value)| (theirs(name).unwrap_or(name), value)).collect()
}

/// The body's media type, and the body.
pub(super) fn encode(pairs: &[(&str, &str)], client: &Client) -> (&'static str, Secret) {
    match client.form.format {
        BodyFormat::Form => (FORM, form(pairs)),
        BodyFormat::Json => (JSON, json(pairs)),
    }
}

/// The header fields that every request of a client has.
pub(super) fn fields_of(client: &Client) -> impl Iterator<Item = (String, Secret)> {
    client.fields.iter().map(|field| (field.name.clone(), field.value.clone()))
}

fn form(pairs: &[(&str, &str)]) -> Secret {
    // Three bytes for each at the worst: the text never grows, so that no copy of a secret stays in freed memory.
    let room = pairs.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    Secret::new(FormSerializer::new(String::with_capacity(room)).extend_pairs(pairs).finish())
}

fn json(pairs: &[(&str, &str)]) -> Secret {
    // six bytes for each at the worst (`\u001b`), and room for the marks around
    let room = pairs.iter().map(|(name, value)| 6 * (name.len() + value.len()) + 8).sum::<usize>() + 2;
    let mut json = Vec::with_capacity(room);
    serde_json::to_writer(&mut json, &Members(pairs)).expect("texts and arrays of texts always have a JSON form");
    Secret::new(String::from_utf8(json).expect("JSON is UTF-8"))
}

/// The pairs as an object: what is said once is a text, what is said several times an array.
struct Members<'a>(&'a [(&'a str, &'a str)]);

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (index, (name, value)) in self.0.iter().enumerate() {
            let all = || self.0.iter().filter(|(other, _)| other == name).map(|(_, value)| *value);
            if self.0[..index].iter().any(|(other, _)| other == name) {
                continue;
            }
            match all().count() {
                1 => object.serialize_entry(name, value)?,
                _ => object.serialize_entry(name, &all().collect::<Vec<_>>())?,
            }
        }
        object.end()
    }
}
