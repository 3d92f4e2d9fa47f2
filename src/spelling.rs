//! Secrets in whatever spelling a server sends them back. Pure.
//!
//! A text is read three times at once: as it stands, with its escapes decoded, and with what comes of that decoded again,
//! as in the query of an address in another's query. An escape is one of percent-encoding, of JSON and quoted strings, or of
//! HTML; a blank is `+` in forms, so the two are one here. Each reading is searched by Knuth, Morris and Pratt, so time
//! is linear in the text, whatever is in it and wherever it is cut.
//!
//! Where a body is looked through, each secret is also looked for as what encodes it ([`Secrets::also_encoded`]).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};

/// A shorter secret cannot be told from an ordinary word.
const SHORTEST: usize = 8;

/// A part of a field's value that is no shorter is looked for by itself: `abc...` in `Token token="abc..."`.
const SHORTEST_PART: usize = 16;

/// How often a text is decoded.
const DECODINGS: usize = 2;

/// An escape has no more bytes than this: a number may have zeros in front, as many as fit in.
const LONGEST_ESCAPE: usize = 32;

/// HTML's names of ASCII characters. Four need no semicolon, as browsers have it.
const ENTITIES: [(&[u8], u8); 45] = [
    (b"amp", b'&'),
    (b"lt", b'<'),
    (b"gt", b'>'),
    (b"quot", b'"'),
    (b"AMP", b'&'),
    (b"LT", b'<'),
    (b"GT", b'>'),
    (b"QUOT", b'"'),
    (b"apos;", b'\''),
    (b"plus;", b'+'),
    (b"equals;", b'='),
    (b"sol;", b'/'),
    (b"period;", b'.'),
    (b"lowbar;", b'_'),
    (b"UnderBar;", b'_'),
    (b"Tab;", b'\t'),
    (b"NewLine;", b'\n'),
    (b"excl;", b'!'),
    (b"num;", b'#'),
    (b"dollar;", b'$'),
    (b"percnt;", b'%'),
    (b"lpar;", b'('),
    (b"rpar;", b')'),
    (b"ast;", b'*'),
    (b"midast;", b'*'),
    (b"comma;", b','),
    (b"colon;", b':'),
    (b"semi;", b';'),
    (b"quest;", b'?'),
    (b"commat;", b'@'),
    (b"lsqb;", b'['),
    (b"lbrack;", b'['),
    (b"bsol;", b'\\'),
    (b"rsqb;", b']'),
    (b"rbrack;", b']'),
    (b"Hat;", b'^'),
    (b"grave;", b'`'),
    (b"DiacriticalGrave;", b'`'),
    (b"lcub;", b'{'),
    (b"lbrace;", b'{'),
    (b"verbar;", b'|'),
    (b"vert;", b'|'),
    (b"VerticalLine;", b'|'),
    (b"rcub;", b'}'),
    (b"rbrace;", b'}'),
];

/// Secrets that are looked for. Cheap to clone.
#[derive(Clone, Default, Debug)]
pub(crate) struct Secrets {
    patterns: Vec<Arc<Pattern>>,
    /// The length of the shortest; a shorter text holds none.
    shortest: usize,
    /// What encodes them, once somebody has asked for it.
    encoded: OnceLock<Vec<Arc<Pattern>>>,
}

/// One secret, prepared for the search.
struct Pattern {
    bytes: Box<[u8]>,
    /// For each length of a beginning that was found, the longest shorter one that it ends in.
    shorter: Box<[usize]>,
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl Secrets {
    /// Looks for a field's secret: for all that follows its scheme, for the long parts of that, and for what Basic
    /// credentials encode.
    pub(crate) fn of_field(value: &[u8]) -> Self {
        let scheme = value.iter().position(|byte| *byte == b' ');
        let secret = &value[scheme.map_or(0, |space| space + 1)..];
        let mut secrets = Self::default();
        secrets.add(secret);
        let is_of_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
        for part in secret.split(|byte| !is_of_part(byte)).filter(|part| part.len() >= SHORTEST_PART) {
            secrets.add(part);
        }
        if scheme.is_some_and(|end| value[..end].eq_ignore_ascii_case(b"basic"))
            && let Ok(pair) = BASE64_STANDARD.decode(secret)
        {
            secrets.add(&pair);
            secrets.add(pair.splitn(2, |byte| *byte == b':').nth(1).unwrap_or_default());
        }
        secrets
    }

    /// Looks for a text that is secret from its beginning to its end.
    pub(crate) fn of_whole(secret: &[u8]) -> Self {
        let mut secrets = Self::default();
        secrets.add(secret);
        secrets
    }

    fn add(&mut self, secret: &[u8]) {
        if secret.len() < SHORTEST || self.patterns.iter().any(|known| *known.bytes == *secret) {
            return;
        }
        self.patterns.push(Arc::new(Pattern::of(secret)));
        self.encoded = OnceLock::new();
        self.set_shortest();
    }

    /// These, and what encodes them wherever they stand in what was encoded: Base64 in both alphabets, hexadecimal
    /// digits, and the units of UTF-16 in either order. The first and the last digits of Base64, which also hold what is
    /// beside the secret, are not part of it.
    #[must_use]
    pub(crate) fn also_encoded(&self) -> Self {
        let encoded = self.encoded.get_or_init(|| {
            let mut encoded: Vec<Arc<Pattern>> = Vec::new();
            for spelling in self.patterns.iter().flat_map(|pattern| encodings(&pattern.bytes)) {
                if spelling.len() >= SHORTEST && !encoded.iter().any(|known| *known.bytes == *spelling) {
                    encoded.push(Arc::new(Pattern::of(&spelling)));
                }
            }
            encoded
        });
        self.and(&Self { patterns: encoded.clone(), ..Self::default() })
    }

    /// These and those.
    #[must_use]
    pub(crate) fn and(&self, others: &Self) -> Self {
        let mut all = Self { patterns: self.patterns.clone(), ..Self::default() };
        for other in &others.patterns {
            if !all.patterns.iter().any(|known| known.bytes == other.bytes) {
                all.patterns.push(other.clone());
            }
        }
        all.set_shortest();
        all
    }

    fn set_shortest(&mut self) {
        self.shortest = self.patterns.iter().map(|pattern| pattern.bytes.len()).min().unwrap_or(0);
    }

    /// Whether there is nothing to look for.
    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a text of this length can hold a secret.
    pub(crate) fn fit(&self, length: usize) -> bool {
        length >= self.shortest && !self.is_empty()
    }

    /// Whether `text` repeats a secret.
    pub(crate) fn are_in(&self, text: &[u8]) -> bool {
        self.fit(text.len())
            && (self.patterns.iter().any(|pattern| pattern.is_in(text))
                // nearly all texts have no escapes
                || text.iter().any(|byte| matches!(byte, b'%' | b'\\' | b'&')) && !self.find(text).is_empty())
    }

    /// Whether a field's name, which is in lower case, repeats a secret.
    pub(crate) fn are_in_name(&self, name: &str) -> bool {
        let name_bytes = name.as_bytes();
        let same = |(ours, secret): (&u8, &u8)| folded(*ours) == folded(secret.to_ascii_lowercase());
        let stands_in = |pattern: &Arc<Pattern>| {
            name_bytes.windows(pattern.bytes.len()).any(|part| part.iter().zip(&*pattern.bytes).all(same))
        };
        let is_escaped = || name_bytes.iter().any(|byte| matches!(byte, b'%' | b'&'));
        self.fit(name.len())
            && (self.patterns.iter().any(stands_in)
                || is_escaped() && {
                    let in_lower_case =
                        |pattern: &Arc<Pattern>| Arc::new(Pattern::of(&pattern.bytes.to_ascii_lowercase()));
                    let patterns = self.patterns.iter().map(in_lower_case).collect();
                    Self { patterns, shortest: self.shortest, ..Self::default() }.are_in(name_bytes)
                })
    }

    /// Where `text` repeats a secret; in order, apart from each other.
    pub(crate) fn find(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if self.fit(text.len()) {
            let mut scanner = Scanner::new(self.clone());
            scanner.feed(text, &mut found);
            scanner.finish(&mut found);
        }
        found.sort_by_key(|range| range.start);
        let mut apart: Vec<Range<usize>> = Vec::with_capacity(found.len());
        for range in found {
            match apart.last_mut() {
                Some(last) if range.start < last.end => last.end = last.end.max(range.end),
                _ => apart.push(range),
            }
        }
        apart
    }
}

/// What encodes a secret, wherever in a text.
fn encodings(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for before in 0..3 {
        // bytes before it shift it by bits: digits of four or two of its own bits are of a neighbour, too
        let text = [&[0; 2][..before], secret].concat();
        let (first, last) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
        for digits in [BASE64_STANDARD_NO_PAD.encode(&text), BASE64_URL_SAFE_NO_PAD.encode(&text)] {
            all.push(digits.as_bytes()[first..last].to_vec());
        }
    }
    for digits in [b"0123456789abcdef", b"0123456789ABCDEF"] {
        let hexadecimal = |byte: &u8| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]];
        all.push(secret.iter().flat_map(hexadecimal).collect());
    }
    let mut units: Vec<u8> = secret.iter().flat_map(|byte| [*byte, 0]).collect();
    units.pop();
    all.push(units);
    all
}

/// In forms a blank is `+`.
fn folded(byte: u8) -> u8 {
    if byte == b'+' { b' ' } else { byte }
}

impl Pattern {
    fn of(secret: &[u8]) -> Self {
        let bytes: Box<[u8]> = secret.into();
        let mut shorter = vec![0; bytes.len() + 1];
        let mut length = 0;
        for at in 1..bytes.len() {
            while length > 0 && folded(bytes[at]) != folded(bytes[length]) {
                length = shorter[length];
            }
            length += usize::from(folded(bytes[at]) == folded(bytes[length]));
            shorter[at + 1] = length;
        }
        Self { bytes, shorter: shorter.into() }
    }

    /// Whether a text holds the secret as it stands.
    fn is_in(&self, text: &[u8]) -> bool {
        let mut length = 0;
        text.len() >= self.bytes.len()
            && text.iter().any(|byte| {
                length = self.step(length, *byte);
                length == self.bytes.len()
            })
    }

    /// How much of a beginning is found after `byte` has followed one of `length`.
    fn step(&self, mut length: usize, byte: u8) -> usize {
        if length == self.bytes.len() {
            length = self.shorter[length];
        }
        while length > 0 && folded(byte) != folded(self.bytes[length]) {
            length = self.shorter[length];
        }
        length + usize::from(folded(byte) == folded(self.bytes[length]))
    }
}

/// A byte as one of the readings has it, and where its spelling is in the text.
#[derive(Clone, Copy)]
struct Unit {
    byte: u8,
    start: usize,
    end: usize,
}

/// Looks through a text that comes in pieces.
pub(crate) struct Scanner {
    secrets: Secrets,
    /// The text as it stands, decoded once, decoded twice.
    readings: [Reading; DECODINGS + 1],
    /// What can begin a secret or an escape, and what can follow.
    is_lead: [bool; 256],
    is_second: [bool; 256],
    longest: usize,
    /// How much has come.
    at: usize,
}

#[derive(Default)]
struct Reading {
    /// What may become an escape for the next reading.
    undecoded: VecDeque<Unit>,
    /// How much of each secret has been found.
    lengths: Vec<usize>,
    /// Where the last bytes begin, as many as the longest secret has.
    starts: VecDeque<usize>,
}

impl Scanner {
    pub(crate) fn new(secrets: Secrets) -> Self {
        let mut is_lead = [false; 256];
        for lead in secrets.patterns.iter().map(|pattern| folded(pattern.bytes[0])).chain(*b"%\\&") {
            is_lead[usize::from(lead)] = true;
        }
        let mut is_second = [false; 256];
        for second in secrets.patterns.iter().filter_map(|pattern| pattern.bytes.get(1)).map(|byte| folded(*byte)) {
            is_second[usize::from(second)] = true;
        }
        for escape in *b"%\\&" {
            is_second[usize::from(escape)] = true;
        }
        for is in [&mut is_lead, &mut is_second] {
            is[usize::from(b'+')] |= is[usize::from(b' ')];
        }
        let longest = secrets.patterns.iter().map(|pattern| pattern.bytes.len()).max().unwrap_or(0);
        let readings =
            [(); DECODINGS + 1].map(|()| Reading { lengths: vec![0; secrets.patterns.len()], ..Reading::default() });
        Self { secrets, readings, is_lead, is_second, longest, at: 0 }
    }

    /// Takes the next piece, and adds to `found` where secrets are, counted from the text's beginning.
    pub(crate) fn feed(&mut self, piece: &[u8], found: &mut Vec<Range<usize>>) {
        let mut is_idle = self.is_idle();
        for (at, byte) in piece.iter().enumerate() {
            // what an escape begins with is read whatever follows
            let may_begin = || {
                let next = piece.get(at + 1).filter(|_| !matches!(byte, b'%' | b'\\' | b'&'));
                self.is_lead[usize::from(*byte)] && next.is_none_or(|next| self.is_second[usize::from(*next)])
            };
            if !is_idle || may_begin() {
                self.read(0, Unit { byte: *byte, start: self.at, end: self.at + 1 }, found);
                is_idle = self.is_idle();
            }
            self.at += 1;
        }
    }

    /// Says that nothing more comes: a number without a semicolon may end with the text.
    pub(crate) fn finish(&mut self, found: &mut Vec<Range<usize>>) {
        for depth in 0..DECODINGS {
            self.decode(depth, true, found);
        }
    }

    /// From where on the text that has come may belong to a secret that has not come whole.
    pub(crate) fn undecided(&self) -> usize {
        let starts = self.readings.iter().flat_map(|reading| {
            let longest = reading.lengths.iter().zip(&self.secrets.patterns).map(|(length, pattern)| {
                if *length == pattern.bytes.len() { pattern.shorter[*length] } else { *length }
            });
            let longest = longest.max().unwrap_or(0);
            let begun = reading.starts.len().checked_sub(longest).and_then(|at| reading.starts.get(at));
            begun.copied().into_iter().chain(reading.undecoded.front().map(|unit| unit.start))
        });
        starts.min().unwrap_or(self.at)
    }

    /// Whether nothing has begun.
    fn is_idle(&self) -> bool {
        self.readings
            .iter()
            .all(|reading| reading.undecoded.is_empty() && reading.lengths.iter().all(|length| *length == 0))
    }

    fn read(&mut self, depth: usize, unit: Unit, found: &mut Vec<Range<usize>>) {
        let reading = &mut self.readings[depth];
        reading.starts.push_back(unit.start);
        if reading.starts.len() > self.longest {
            reading.starts.pop_front();
        }
        for (length, pattern) in reading.lengths.iter_mut().zip(&self.secrets.patterns) {
            *length = pattern.step(*length, unit.byte);
            if *length == pattern.bytes.len() {
                found.push(reading.starts[reading.starts.len() - *length]..unit.end);
            }
        }
        if depth < DECODINGS {
            reading.undecoded.push_back(unit);
            self.decode(depth, false, found);
        }
    }

    /// Hands what is no beginning of an escape to the next reading.
    fn decode(&mut self, depth: usize, is_end: bool, found: &mut Vec<Range<usize>>) {
        while let Some(first) = self.readings[depth].undecoded.front().copied() {
            let undecoded = &mut self.readings[depth].undecoded;
            let (byte, width) = match escape(undecoded.make_contiguous(), is_end) {
                Escape::Is(byte, width) => (byte, width),
                Escape::Begins if undecoded.len() < LONGEST_ESCAPE && !is_end => return,
                Escape::Begins | Escape::IsNot => (first.byte, 1),
            };
            let end = undecoded.drain(..width).next_back().map_or(first.end, |last| last.end);
            self.read(depth + 1, Unit { byte, start: first.start, end }, found);
        }
    }
}

/// What stands at a text's beginning.
enum Escape {
    /// An escape for a byte, and how long it is.
    Is(u8, usize),
    /// What can become one.
    Begins,
    IsNot,
}

/// Whether a text begins with an escape: `%2B`, `\u002B`, `\x2B`, `\/`, `&#43;`, `&#x2B;`, `&#0043`, `&plus;`, `&amp`.
fn escape(text: &[Unit], is_end: bool) -> Escape {
    let byte = |at: usize| text.get(at).map(|unit| unit.byte);
    match byte(0) {
        Some(b'%') => digits(text, 1, 2),
        Some(b'\\') => match byte(1) {
            None => Escape::Begins,
            Some(b'u') => digits(text, 2, 4),
            Some(b'x') => digits(text, 2, 2),
            Some(mark) if mark.is_ascii_punctuation() => Escape::Is(mark, 2),
            Some(_) => Escape::IsNot,
        },
        Some(b'&') => match byte(1) {
            Some(b'#') => match byte(2) {
                Some(b'x' | b'X') => number(text, 3, 16, is_end),
                _ => number(text, 2, 10, is_end),
            },
            _ => named(text, is_end),
        },
        _ => Escape::IsNot,
    }
}

/// So many hexadecimal digits.
fn digits(text: &[Unit], from: usize, count: usize) -> Escape {
    let mut value = 0;
    for unit in text.iter().skip(from).take(count) {
        let Some(digit) = char::from(unit.byte).to_digit(16) else { return Escape::IsNot };
        value = value * 16 + digit;
    }
    match u8::try_from(value) {
        _ if text.len() < from + count => Escape::Begins,
        Ok(byte) => Escape::Is(byte, from + count),
        Err(_) => Escape::IsNot,
    }
}

/// Digits up to a semicolon, or to what is no digit (HTML section 13.2.5.80 takes that for an end, too).
fn number(text: &[Unit], from: usize, radix: u32, is_end: bool) -> Escape {
    let mut value = 0_u32;
    let is = |value: u32, width: usize| u8::try_from(value).map_or(Escape::IsNot, |byte| Escape::Is(byte, width));
    for (at, unit) in text.iter().enumerate().skip(from) {
        match char::from(unit.byte).to_digit(radix) {
            Some(digit) => value = value.saturating_mul(radix).saturating_add(digit),
            None if at == from => return Escape::IsNot,
            None => return is(value, at + usize::from(unit.byte == b';')),
        }
    }
    if is_end && text.len() > from { is(value, text.len()) } else { Escape::Begins }
}

/// A name, and the semicolon behind it.
fn named(text: &[Unit], is_end: bool) -> Escape {
    let mut begins = false;
    for (name, byte) in ENTITIES {
        if !text.iter().skip(1).zip(name).all(|(unit, expected)| unit.byte == *expected) {
            continue;
        }
        let width = 1 + name.len();
        match text.get(width) {
            Some(next) if !name.ends_with(b";") => return Escape::Is(byte, width + usize::from(next.byte == b';')),
            _ if text.len() >= width && (is_end || name.ends_with(b";")) => return Escape::Is(byte, width),
            _ => begins = true,
        }
    }
    if begins { Escape::Begins } else { Escape::IsNot }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "ab+c/d==\"\\é x.-_~";

    fn encoded(each: impl Fn(u8) -> String) -> String {
        SECRET.bytes().map(each).collect()
    }

    /// `SECRET` as servers spell it.
    fn spellings() -> Vec<(&'static str, Vec<u8>)> {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        let upper = encoded(|byte| if is_plain(&byte) { char::from(byte).into() } else { format!("%{byte:02X}") });
        let json = serde_json::to_string(SECRET).unwrap();
        let json = json.trim_start_matches('"').strip_suffix('"').unwrap().to_owned();
        let html = SECRET.replace('&', "&amp;").replace('"', "&quot;").replace('+', "&#43;").replace('=', "&#x3D;");
        let named =
            [('+', "plus;"), ('/', "sol;"), ('=', "equals;"), ('"', "QUOT"), ('.', "period;"), ('_', "lowbar;")];
        let named = named
            .iter()
            .fold(SECRET.replace('\\', "&bsol;"), |text, (mark, name)| text.replace(*mark, &format!("&{name}")));
        let form: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
        let mixed = format!("%61{}", &upper[1..]);
        vec![
            ("as it is", SECRET.as_bytes().to_vec()),
            ("percent-encoded", upper.clone().into_bytes()),
            ("in lower case", upper.to_lowercase().into_bytes()),
            ("where it need not be", encoded(|byte| format!("%{byte:02x}")).into_bytes()),
            ("here and there", mixed.into_bytes()),
            ("as a form's value", form.into_bytes()),
            ("with a blank for each plus", SECRET.replace('+', " ").into_bytes()),
            ("in JSON", json.clone().into_bytes()),
            ("in JSON, slashes escaped", json.replace('/', "\\/").into_bytes()),
            ("in JSON, within JSON", json.replace('\\', "\\\\").replace('"', "\\\"").into_bytes()),
            ("in ASCII JSON", json.replace('+', "\\u002b").replace('=', "\\u003D").into_bytes()),
            ("in JavaScript", json.replace('=', "\\x3d").into_bytes()),
            ("in HTML", html.into_bytes()),
            ("in HTML's names", named.into_bytes()),
            ("in numbers", encoded(|byte| format!("&#{byte}")).into_bytes()),
            ("in hexadecimal numbers", encoded(|byte| format!("&#X{byte:x}")).into_bytes()),
            ("in numbers with zeros", encoded(|byte| format!("&#{byte:025}")).into_bytes()),
            ("in numbers, within HTML", encoded(|byte| format!("&amp;#x{byte:08X}")).into_bytes()),
            ("in numbers, in HTML without a semicolon", encoded(|byte| format!("&amp#{byte}")).into_bytes()),
            ("percent-encoded twice", upper.replace('%', "%25").into_bytes()),
            ("percent-encoded, in JSON", upper.replace('%', "\\u0025").into_bytes()),
        ]
    }

    fn secrets(secret: &str) -> Secrets {
        Secrets::of_whole(secret.as_bytes())
    }

    #[test]
    fn a_secret_is_found_in_every_spelling_wherever_it_is_cut() {
        let secrets = secrets(SECRET);
        for (case, spelling) in spellings() {
            let text = [b"%ab\\ab+c&ab+", &*spelling, b"%"].concat();
            let at = 12..12 + spelling.len();
            let expected = std::slice::from_ref(&at);
            assert_eq!(secrets.find(&text), expected, "{case}");
            assert!(secrets.are_in(&text), "{case}");
            for cut in 0..=text.len() {
                let mut scanner = Scanner::new(secrets.clone());
                let mut found = Vec::new();
                scanner.feed(&text[..cut], &mut found);
                if (12..12 + spelling.len()).contains(&cut) {
                    assert!(scanner.undecided() <= 12, "{case}: {cut}");
                }
                scanner.feed(&text[cut..], &mut found);
                scanner.finish(&mut found);
                found.dedup(); // by one reading after the other
                assert_eq!(found, expected, "{case}: {cut}");
            }
            for byte in 0..spelling.len() {
                let mut other = spelling.clone();
                other[byte] = b'!';
                assert!(!secrets.are_in(&other), "{case}: {byte}");
            }
        }
    }

    #[test]
    fn the_end_of_a_text_ends_its_last_number() {
        let rows = [
            ("abcdefg&#104", true),
            ("abcdefg&#x68", true),
            ("abcdefg&amp;#104", true),
            ("abcdefg&amp;#38;#104", false), // three times
            ("abcdefg&#10", false),
            ("abcdefg&#1040", false),
            ("abcdefg&#", false),
        ];
        for (text, expected) in rows {
            assert_eq!(secrets("abcdefgh").are_in(text.as_bytes()), expected, "{text}");
        }
        assert!(secrets("abcdefg&").are_in(b"abcdefg&amp"));
    }

    #[test]
    fn a_field_is_known_by_its_parts() {
        let rows = [
            ("Bearer abcdefgh", "x-abcdefgh-x", true),
            ("Bearer abcdefgh", "abcdefg", false),
            ("Bearer abcdefg", "abcdefg", false),
            ("Bearer ", "", false),
            ("Token token=\"0123456789abcdef\"", "0123456789abcdef", true),
            ("Token token=\"0123456789abcdef\"", "token=", false),
            ("Basic dXNlcjpsb25nIHBhc3N3b3Jk", "dXNlcjpsb25nIHBhc3N3b3Jk", true),
            ("Basic dXNlcjpsb25nIHBhc3N3b3Jk", "user:long password", true),
            ("Basic dXNlcjpsb25nIHBhc3N3b3Jk", "long+password", true),
        ];
        for (value, text, expected) in rows {
            assert_eq!(Secrets::of_field(value.as_bytes()).are_in(text.as_bytes()), expected, "{value} in {text}");
        }
        assert!(secrets("Abcdefgh").are_in_name("x-abcdefgh"));
        assert!(!secrets("Abcdefgh").are_in_name("x-abcdefg"));
    }

    #[test]
    fn two_secrets_are_found_beside_and_within_each_other() {
        let both = secrets("aabaabaab").and(&secrets("baabaabb"));
        assert_eq!(both.find(b"aabaabaabaab.baabaabb aabaabaabb"), [0..12, 13..21, 22..32]);
        assert_eq!(both.and(&both).patterns.len(), 2);
    }

    #[test]
    fn a_secret_is_found_in_what_encodes_it_wherever_it_stands_there() {
        let secret = "eyJhbGciOi>>J??SUzI1Ni~~9.x";
        let secrets = secrets(secret).also_encoded();
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        for before in ["", "a", "ab", "abc", "Bearer ", "user:"] {
            for after in ["", "!", "!!", "!!!"] {
                let text = format!("{before}{secret}{after}");
                for encoded in [
                    BASE64_STANDARD.encode(&text).into_bytes(),
                    BASE64_URL_SAFE_NO_PAD.encode(&text).into_bytes(),
                    BASE64_STANDARD.encode(&text).replace('/', "\\/").into_bytes(),
                    text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes(),
                    text.bytes().map(|byte| format!("{byte:02X}")).collect::<String>().into_bytes(),
                    utf16(&text),
                ] {
                    let found = secrets.find(&encoded);
                    assert_eq!(found.len(), 1, "{text} in {}", String::from_utf8_lossy(&encoded));
                    let kept = encoded.len() - found[0].len();
                    assert!(kept <= 2 * (before.len() + after.len()) + 10, "{text}: {kept}");
                    for cut in 0..encoded.len() {
                        let mut scanner = Scanner::new(secrets.clone());
                        let mut pieces = Vec::new();
                        scanner.feed(&encoded[..cut], &mut pieces);
                        scanner.feed(&encoded[cut..], &mut pieces);
                        scanner.finish(&mut pieces);
                        assert!(pieces.contains(&found[0]), "{text}: {cut}");
                    }
                }
            }
        }
        assert!(!secrets.are_in(BASE64_STANDARD.encode("eyJhbGciOi>>J??SUzI1Ni~~9.y").as_bytes()));
    }

    /// `cargo test --lib measure_what_encodings_cost -- --ignored --nocapture`, with `--release` for numbers that count.
    #[test]
    #[ignore = "a measurement"]
    fn measure_what_encodings_cost() {
        let line = "{\"id\": \"a3f1\", \"title\": \"Scenes\", \"href\": \"https://api.example/v2/x?a=b\"},\n";
        let text = line.repeat(100_000);
        let plain = secrets(&"eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9".repeat(20));
        for (name, secrets) in [("plain", plain.clone()), ("encoded", plain.also_encoded())] {
            let start = std::time::Instant::now();
            let mut scanner = Scanner::new(secrets);
            scanner.feed(text.as_bytes(), &mut Vec::new());
            let nanos = start.elapsed().as_nanos() as f64 / text.len() as f64;
            println!("{name}: {nanos:.2} ns a byte");
        }
    }

    #[test]
    fn time_is_linear_in_the_text() {
        let secrets = secrets(&format!("{}b", "a".repeat(20_000)));
        let text = "a".repeat(2_000_000);
        assert!(!secrets.are_in(text.as_bytes()), "4e10 comparisons would not have ended");
        let text = "%25".repeat(500_000);
        assert!(!secrets.are_in(text.as_bytes()));
    }
}
