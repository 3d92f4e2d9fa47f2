//! What a JSON-RPC 2.0 text says of itself: the method, the id, and what an MCP method is for. Everything else of it is
//! skipped, however large.
//!
//! One text is read in one way alone: what another reader might understand otherwise is [`Message::is_odd`], such as a
//! member that stands there twice, or in another case (Go's `encoding/json` takes `Method` for `method`).

use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// One message, as far as it is looked at.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Message {
    /// As JSON, in one spelling: a response may spell it otherwise than its request. `null` counts as none.
    pub(crate) id: Option<String>,
    pub(crate) method: Option<String>,
    /// The member `name` of `params`: the tool of `tools/call`, the prompt of `prompts/get`.
    pub(crate) name: Option<String>,
    /// The member `uri` of `params`: the resource of `resources/read`.
    pub(crate) uri: Option<String>,
    /// The protocol version in the member `_meta` of `params`, which messages from 2026-07-28 on have.
    pub(crate) version: Option<String>,
    /// As JSON, the member `requestId` of `params`: what `notifications/cancelled` is about.
    pub(crate) cancels: Option<String>,
    /// Whether readers may differ on what it says.
    pub(crate) is_odd: bool,
}

impl Message {
    /// The id, if it is a request: it is to be answered.
    pub(crate) fn request(&self) -> Option<&str> {
        self.id.as_deref().filter(|_| self.method.is_some())
    }

    /// The id, if it is a response.
    pub(crate) fn response(&self) -> Option<&str> {
        self.id.as_deref().filter(|_| self.method.is_none())
    }
}

/// Reads a message, or a batch of them.
///
/// # Errors
///
/// If it is no JSON, or neither an object nor an array of objects.
pub(crate) fn read(text: impl Read) -> Result<Vec<Message>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_reader(text);
    let messages = Text.deserialize(&mut reader)?;
    reader.end()?;
    Ok(messages)
}

/// A response that says that a request was not carried out.
pub(crate) fn error(id: Option<&str>, code: i64, message: &str, data: Value) -> String {
    // as the client wrote it: a number of many digits would become another one
    let id = id.unwrap_or("null");
    let error = json!({"code": code, "message": message, "data": data});
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}")
}

/// An id as every reader would write it: texts without needless escapes, whole numbers without point and exponent. One that
/// would become another one by that is left as it is.
fn in_one_spelling(id: &str) -> String {
    /// Up to here, each whole number is one of 64 bits.
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    let respelled = match id.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(id).ok().map(|text| Value::String(text).to_string()),
        Some(b'-' | b'0'..=b'9') if id.contains(['.', 'e', 'E']) => {
            let number: Option<f64> = id.parse().ok();
            number.filter(|number| number.fract() == 0.0 && number.abs() < WHOLE).map(|number| format!("{number:.0}"))
        }
        _ => None,
    };
    respelled.unwrap_or_else(|| id.to_owned())
}

/// Seed and visitor of a whole text.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Vec<Message>;
    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Self::Value, D::Error> {
        text.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Vec<Message>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message or an array of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        One.visit_map(members).map(|message| vec![message])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut batch: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::new();
        while let Some(message) = batch.next_element_seed(One)? {
            messages.push(message);
        }
        Ok(messages)
    }
}

/// Seed and visitor of one message.
struct One;

impl<'de> DeserializeSeed<'de> for One {
    type Value = Message;
    fn deserialize<D: Deserializer<'de>>(self, message: D) -> Result<Self::Value, D::Error> {
        message.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for One {
    type Value = Message;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut message = Message::default();
        let mut seen = Seen::default();
        while let Some(name) = members.next_key::<String>()? {
            match seen.is_new(&name, &["id", "method", "params", "jsonrpc"]) {
                Some("id") => {
                    let id: Box<RawValue> = members.next_value()?;
                    message.is_odd |= id.get().starts_with(['{', '[', 't', 'f']); // JSON-RPC 2.0, section 4
                    message.id = Some(in_one_spelling(id.get())).filter(|id| id != "null");
                }
                Some("method") => message.method = Some(members.next_value()?),
                Some("params") => members.next_value_seed(Params(&mut message))?,
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        message.is_odd |= seen.is_odd;
        Ok(message)
    }
}

/// Seed and visitor of a message's parameters, of any type.
struct Params<'m>(&'m mut Message);

impl<'de> DeserializeSeed<'de> for Params<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, params: D) -> Result<(), D::Error> {
        params.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Params<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = Seen::default();
        while let Some(name) = members.next_key::<String>()? {
            let of_interest = seen.is_new(&name, &["name", "uri", "_meta", "requestId"]);
            let into = match of_interest {
                Some("name") => &mut self.0.name,
                Some("uri") => &mut self.0.uri,
                Some("_meta") => {
                    let Meta { version } = members.next_value()?;
                    self.0.version = version.and_then(|version| serde_json::from_value(version).ok());
                    continue;
                }
                Some("requestId") => {
                    let id: Box<RawValue> = members.next_value()?;
                    self.0.cancels = Some(in_one_spelling(id.get()));
                    continue;
                }
                _ => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            match members.next_value_seed(AText)? {
                Some(text) => *into = Some(text),
                None => seen.is_odd = true,
            }
        }
        self.0.is_odd |= seen.is_odd;
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        self.0.is_odd = true; // MCP has none by position
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// What is said beside a message's parameters; not even an object, if it is not said in the usual way.
#[derive(Default)]
struct Meta {
    version: Option<Value>,
}

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: Deserializer<'de>>(meta: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Members {
            #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
            version: Option<Value>,
        }
        let raw: Box<RawValue> = Deserialize::deserialize(meta)?;
        Ok(serde_json::from_str(raw.get()).map(|Members { version }| Self { version }).unwrap_or_default())
    }
}

/// Seed and visitor of a member that should be a text; what is something else is skipped.
struct AText;

impl<'de> DeserializeSeed<'de> for AText {
    type Value = Option<String>;
    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        let raw: Box<RawValue> = Deserialize::deserialize(value)?;
        match raw.get().starts_with('"') {
            true => serde_json::from_str(raw.get()).map(Some).map_err(D::Error::custom),
            false => Ok(None),
        }
    }
}

/// Which members an object has had.
#[derive(Default)]
struct Seen {
    names: Vec<&'static str>,
    is_odd: bool,
}

impl Seen {
    /// Which of these a member is.
    fn is_new(&mut self, name: &str, of: &[&'static str]) -> Option<&'static str> {
        let folded = folded(name);
        let of_interest = of.iter().copied().find(|one| self::folded(one) == folded)?;
        self.is_odd |= name != of_interest || self.names.contains(&of_interest);
        self.names.push(of_interest);
        Some(of_interest)
    }
}

/// As readers that disregard case compare: U+017F and U+212A are an s and a k to them.
fn folded(name: &str) -> String {
    let letters = name.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    letters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Message {
        read(text.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn a_message_says_whether_it_is_to_be_answered_and_what_it_is_for() {
        let call = one(
            r#"{"jsonrpc":"2.0","params":{"arguments":{"name":"x"},"name":"search"},"method":"tools/call","id":7}"#,
        );
        assert_eq!((call.request(), call.name.as_deref(), call.is_odd), (Some("7"), Some("search"), false));
        let read = one(r#"{"id":"a","method":"resources/read","params":{"uri":"file:///x"}}"#);
        assert_eq!((read.request(), read.uri.as_deref()), (Some("\"a\""), Some("file:///x")));
        assert_eq!(one(r#"{"method":"notifications/initialized"}"#).request(), None);
        assert_eq!(one(r#"{"id":null,"error":{}}"#).response(), None);
        assert_eq!(one(r#"{"id":3,"result":{"method":"no"}}"#).response(), Some("3"));
        assert_eq!(super::read(&b"[{\"id\":1,\"method\":\"a\"}, {\"id\":2,\"method\":\"b\"}]"[..]).unwrap().len(), 2);
    }

    #[test]
    fn what_readers_may_differ_on_is_odd_and_what_is_no_json_is_refused() {
        for odd in [
            r#"{"method":"ping","method":"tools/call"}"#,
            r#"{"method":"ping","Method":"tools/call"}"#,
            r#"{"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            r#"{"method":"tools/call","params":{"name":"a","NAME":"b"}}"#,
            r#"{"method":"tools/call","param\u017f":{"name":"b"}}"#,
            r#"{"method":"tools/call","params":["a"]}"#,
            r#"{"method":"tools/call","params":{"name":["a"]}}"#,
            r#"{"method":"ping","id":{"method":"tools/call"}}"#,
            r#"{"method":"ping","id":[[1]]}"#,
            r#"{"method":"ping","id":true}"#,
        ] {
            assert!(one(odd).is_odd, "{odd}");
        }
        let cancelled = one(r#"{"method":"notifications/cancelled","params":{"requestId":7}}"#);
        assert_eq!((cancelled.cancels.as_deref(), cancelled.is_odd), (Some("7"), false));
        for (meta, expected) in [
            (r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","x":[{}]}"#, Some("2026-07-28")),
            (r#"{"io.modelcontextprotocol/protocolVersion":7}"#, None),
            ("7", None),
            ("{}", None),
        ] {
            let message = one(&format!(r#"{{"id":1,"method":"ping","params":{{"_meta":{meta}}}}}"#));
            assert_eq!((message.version.as_deref(), message.is_odd), (expected, false), "{meta}");
        }
        assert!(!one(r#"{"m\u0065thod":"ping"}"#).is_odd, "an escape is read by all alike");
        for wrong in ["", "7", "{", "{} {}", "[7]", "{\"method\":7}", "{\"a\":1 /* */}", "\u{feff}{}"] {
            assert!(super::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_is_the_same_however_it_is_spelled() {
        for (spelled, id) in [
            (r#""a\/b""#, r#""a/b""#),
            (r#""\u00e9\u0022""#, r#""é\"""#),
            ("1.0", "1"),
            ("10e-1", "1"),
            ("-7.0", "-7"),
            ("1.5", "1.5"),
            ("1234567890123456789012345", "1234567890123456789012345"),
            ("1e300", "1e300"),
            (r#""\ud800""#, r#""\ud800""#),
        ] {
            let message = one(&format!(r#"{{"id":{spelled},"method":"ping","params":{{"requestId":{spelled}}}}}"#));
            assert_eq!((message.request(), message.cancels.as_deref()), (Some(id), Some(id)), "{spelled}");
        }
    }

    #[test]
    fn an_error_answers_the_request_that_it_is_for() {
        let text = error(Some("\"a\""), -32001, "no", Value::Null);
        let text: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&text["id"], &text["error"]["code"]), (&json!("a"), &json!(-32001)));
        let long = "1234567890123456789012345678901234567890";
        assert!(error(Some(long), -32001, "no", Value::Null).contains(&format!("\"id\":{long},")), "digit by digit");
        assert!(error(None, -32001, "no", Value::Null).contains("\"id\":null,"));
    }

    #[test]
    fn nothing_that_a_text_holds_takes_more_than_it_is_long() {
        let deep = |inside: &str| format!("{}{inside}{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!(r#"{{"method":"tools/call","params":{{"arguments":{},"name":"a"}},"id":1}}"#, deep("7"));
        let call = one(&text);
        assert_eq!((call.name.as_deref(), call.request(), call.is_odd), (Some("a"), Some("1"), false));
        assert!(one(&format!(r#"{{"method":"ping","id":{}}}"#, deep("7"))).is_odd);
        assert!(super::read(deep("{}").as_bytes()).is_err(), "a batch in a batch is none");
    }
}
