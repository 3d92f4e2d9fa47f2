//! What must not be seen in a response, and how its head and its trailers are kept free of it. Pure.
//!
//! A field whose value repeats a secret loses that value; other values of its name stay. A reference, such as that of
//! `Location`, loses the secret alone where that is in its query or fragment: without what was put there it leads to
//! the same place, and is asked for with a token again.

use std::ops::Range;

use hyper::HeaderMap;
use hyper::header::{CONTENT_LOCATION, HeaderName, HeaderValue, LINK, LOCATION, REFRESH};
use tracing::debug;

use crate::proxy::policy::rewrite::REFERENCES;
use crate::spelling::Secrets;
use crate::token_source::Published;

/// The secrets that a request carried, and those that it would have carried before.
#[derive(Clone, Copy)]
pub(crate) struct Confidential<'a> {
    /// The tokens.
    token: &'a Secrets,
    /// Those in the fields that the route adds.
    added: Option<&'a Secrets>,
}

impl<'a> Confidential<'a> {
    /// What a request with `token` carried, and in the fields that its route has added.
    pub(crate) fn of(token: &'a Published, added: Option<&'a Secrets>) -> Self {
        Self { token: token.secrets(), added }
    }

    fn each(self) -> impl Iterator<Item = &'a Secrets> {
        std::iter::once(self.token).chain(self.added)
    }

    /// All of them, also as what encodes them, to be looked for in a body; `None` if there are none.
    pub(crate) fn all(self) -> Option<Secrets> {
        let token = self.token.also_encoded();
        let all = match self.added {
            Some(added) => token.and(&added.also_encoded()),
            None => token,
        };
        (!all.is_empty()).then_some(all)
    }

    /// Whether a text repeats one.
    pub(crate) fn is_in(self, text: &[u8]) -> bool {
        self.each().any(|secrets| secrets.are_in(text))
    }

    /// Whether a field repeats one.
    pub(crate) fn is_in_field(self, name: &HeaderName, value: &HeaderValue) -> bool {
        self.is_in(value.as_bytes()) || self.each().any(|secrets| secrets.are_in_name(name.as_str()))
    }

    /// Takes them out of a head or of trailers.
    pub(crate) fn remove_from(self, headers: &mut HeaderMap) {
        let repeats = |name: &&HeaderName| headers.get_all(*name).iter().any(|value| self.is_in_field(name, value));
        let names: Vec<HeaderName> = headers.keys().filter(repeats).cloned().collect();
        for name in names {
            let values: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
            headers.remove(&name);
            if self.each().any(|secrets| secrets.are_in_name(name.as_str())) {
                continue;
            }
            let is_reference =
                matches!(name, LOCATION | CONTENT_LOCATION | LINK | REFRESH) || REFERENCES.contains(&name.as_str());
            for value in values {
                if !self.is_in(value.as_bytes()) {
                    headers.append(name.clone(), value);
                } else if is_reference && let Some(rest) = self.taken_out_of(value.as_bytes()) {
                    headers.append(name.clone(), rest);
                } else {
                    debug!(field = %name, "dropped: it repeats a secret");
                }
            }
        }
    }

    /// References without what they repeat; `None` if it is not in a query or fragment.
    fn taken_out_of(self, references: &[u8]) -> Option<HeaderValue> {
        let mut text = references.to_vec();
        for secrets in self.each() {
            for secret in secrets.find(&text).into_iter().rev() {
                let cut = cut(&text, secret)?;
                text.drain(cut);
            }
        }
        // what was cut apart could have come together
        if self.is_in(&text) { None } else { HeaderValue::from_bytes(&text).ok() }
    }
}

/// What goes with a secret: its whole parameter, where it is all of that one's value.
fn cut(text: &[u8], secret: Range<usize>) -> Option<Range<usize>> {
    let last = |marks: &[u8]| text[..secret.start].iter().rposition(|byte| marks.contains(byte));
    let tail = last(b"?#")?;
    if last(b"<>\"' \t").is_some_and(|end| end > tail) {
        return None;
    }
    let start = last(b"?#&")? + 1;
    let end = text[secret.end..].iter().position(|byte| b"&#<>\"' \t,;".contains(byte));
    let end = end.map_or(text.len(), |length| secret.end + length);
    let name = text[start..secret.start].strip_suffix(b"=");
    if end != secret.end || name.is_none_or(|name| name.contains(&b'=')) {
        return Some(secret);
    }
    Some(match (text[start - 1], text.get(end)) {
        (b'&', _) => start - 1..end,
        (_, Some(b'&')) => start..end + 1,
        _ => start - 1..end,
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::AUTHORIZATION;

    use super::*;
    use crate::renewal::RenewalId;
    use crate::timestamp::Timestamp;

    fn published() -> Published {
        let field = (AUTHORIZATION, HeaderValue::from_static("Bearer a+b/c=d+e/f="));
        Published::new(RenewalId(1), field, Timestamp::FAR, Timestamp::FAR)
    }

    #[test]
    fn a_reference_that_repeats_the_query_loses_the_token_alone() {
        let token = published();
        let confidential = Confidential::of(&token, None);
        let rows = [
            ("/x?access_token=TOKEN", Some("/x")),
            ("/x?access_token=TOKEN&page=2", Some("/x?page=2")),
            ("/x?page=2&access_token=TOKEN", Some("/x?page=2")),
            ("/x?a=1&access_token=TOKEN&b=2#c", Some("/x?a=1&b=2#c")),
            ("/x?access_token=TOKEN#c", Some("/x#c")),
            ("/x#access_token=TOKEN&a=1", Some("/x#a=1")),
            ("/x?a=TOKEN&b=TOKEN", Some("/x")),
            ("/x?to=https%3A%2F%2Fh%3Ft%3DTOKEN%26b=1", Some("/x?to=https%3A%2F%2Fh%3Ft%3D%26b=1")),
            ("/x?t=Bearer%20TOKEN", Some("/x?t=Bearer%20")),
            ("0;url=/x?t=TOKEN", Some("0;url=/x")),
            ("0;url='/x?t=TOKEN'", Some("0;url='/x'")),
            ("</x?t=TOKEN&p=2>; rel=next, </x?p=9&t=TOKEN>; rel=last", Some("</x?p=2>; rel=next, </x?p=9>; rel=last")),
            ("</x?p=2>; title=\"TOKEN\"", None),
            ("/TOKEN?x", None),
            ("TOKEN", None),
        ];
        let spellings = ["a+b/c=d+e/f=", "a%2Bb%2Fc%3Dd%2Be%2Ff%3D", "a%2bb%2fc%3dd%2be%2ff%3d", "a%2bb/c=d+e/f="];
        for (given, expected) in rows {
            for spelling in spellings {
                let expected = expected.map(|rest| HeaderValue::from_str(rest).unwrap());
                let given = given.replace("TOKEN", spelling);
                assert_eq!(confidential.taken_out_of(given.as_bytes()), expected, "{given}");
            }
        }
    }

    #[test]
    fn a_field_loses_the_value_that_repeats_a_secret_and_no_other() {
        let token = published();
        let added = Secrets::of_field(b"key-of-the-route");
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("set-cookie", "a=b"),
            ("set-cookie", "t=a%2Bb%2Fc%3Dd%2Be%2Ff%3D"),
            ("set-cookie", "c=d"),
            ("x-key-of-the-route", "1"),
            ("x-echo", "{\"t\": \"a\\u002bb\\/c=d+e\\/f=\"}"),
            ("x-key", "key-of-the-route"),
            ("location", "/y?key=key-of-the-route"),
            ("x-fine", "key-of-the-house"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Confidential::of(&token, Some(&added)).remove_from(&mut headers);
        let mut left: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [("location", "/y"), ("set-cookie", "a=b"), ("set-cookie", "c=d"), ("x-fine", "key-of-the-house")]
        );
    }
}
