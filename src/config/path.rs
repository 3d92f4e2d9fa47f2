//! Paths as servers may read them, and patterns over them. Pure.
//!
//! One path can be written in many ways, and servers do not agree which of them are the same: percent-encoded once or
//! more, slashes doubled, `%2F` for a slash, parameters behind `;`. So a pattern is never compared with what was
//! written but with a [`Reading`], in which everything is decoded and what can be read in two ways is marked. What is
//! denied is denied if *any* way of reading the path leads there; what is allowed is allowed only if *every* way does.
//! The path itself goes upstream as it came.

use std::borrow::Cow;
use std::fmt;

use super::problem::Complaint;

/// The first byte that is meant, through any number of percent encodings, and how many bytes it is written with.
pub(crate) fn decode(bytes: &[u8]) -> (u8, usize) {
    if bytes[0] != b'%' {
        return (bytes[0], 1);
    }
    let mut at = 1;
    while bytes[at..].starts_with(b"25") {
        at += 2;
    }
    let digit = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    match (digit(at), digit(at + 1)) {
        (Some(high), Some(low)) => ((high * 16 + low) as u8, at + 2), // at most 255
        _ => (b'%', at.max(1)),
    }
}

/// Nobody means a path that is encoded more often than this.
const MOST_DECODINGS: usize = 8;

/// Decodes until nothing changes any more, since what stands side by side after one decoding can be an encoding itself:
/// `%%32e` is `%2e` is a dot. `None` if that takes too long.
fn decode_to_the_end(path: &[u8]) -> Option<Vec<u8>> {
    decoded(path).map(|(bytes, _)| bytes)
}

/// The same, with whether each byte was written in another way than as itself.
fn decoded(path: &[u8]) -> Option<(Vec<u8>, Vec<bool>)> {
    let (mut path, mut is_encoded) = (path.to_vec(), vec![false; path.len()]);
    for _ in 0..MOST_DECODINGS {
        let (mut next, mut next_encoded) = (Vec::with_capacity(path.len()), Vec::with_capacity(path.len()));
        for (at, byte, width) in decode_once(&path) {
            next.push(byte);
            next_encoded.push(width > 1 || is_encoded[at]);
        }
        if next.len() == path.len() {
            return Some((path, is_encoded));
        }
        (path, is_encoded) = (next, next_encoded);
    }
    None
}

/// One round of decoding: where each byte that is meant stands, the byte, and how many bytes it is written with.
fn decode_once(path: &[u8]) -> impl Iterator<Item = (usize, u8, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (byte, width) = decode(path.get(at..).filter(|rest| !rest.is_empty())?);
        let start = at;
        at += width;
        Some((start, byte, width))
    })
}

/// Whether what one round of decoding leaves could be decoded again, as in `%%32e`. Nobody means that.
pub(crate) fn is_encoded_over_and_over(path: &[u8]) -> bool {
    let decoded: Vec<u8> = decode_once(path).map(|(_, byte, _)| byte).collect();
    decode_once(&decoded).any(|(_, _, width)| width > 1)
}

/// The form in which paths are compared with refused ones and shown in the audit: decoded, runs of slashes as one, none
/// at the end, path parameters (`;x=y`) cut off. Never sent anywhere.
pub(crate) fn canonical(path: &str) -> Cow<'_, [u8]> {
    let is_plain = !path.bytes().fold(false, |any, byte| any | matches!(byte, b'%' | b';')) && !path.contains("//");
    if is_plain {
        return Cow::Borrowed(path.strip_suffix('/').unwrap_or(path).as_bytes());
    }
    // what takes too long to decode is refused before
    let decoded = if path.contains('%') { decode_to_the_end(path.as_bytes()) } else { None };
    let bytes = decoded.as_deref().unwrap_or(path.as_bytes());
    let mut canonical = Vec::with_capacity(bytes.len());
    let mut in_parameter = false;
    for byte in bytes.iter().copied() {
        match byte {
            b'/' => {
                in_parameter = false;
                if canonical.last() != Some(&b'/') {
                    canonical.push(b'/');
                }
            }
            b';' => in_parameter = true,
            _ if in_parameter => {}
            _ => canonical.push(byte),
        }
    }
    if canonical.last() == Some(&b'/') {
        canonical.pop();
    }
    Cow::Owned(canonical)
}

/// A path in the form in which patterns are matched against it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// With parameters as ordinary text.
    whole: Vec<Symbol>,
    /// With parameters cut off, if there are any.
    cut: Option<Vec<Symbol>>,
}

/// One step of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Symbol {
    /// The slash between two segments.
    Slash,
    /// A slash that may be none: encoded, or one of several in a row. Servers read it as a slash, as a byte of the
    /// segment, or as nothing.
    Doubtful,
    /// The slash at the end, which means something to some servers.
    Last,
    Byte(u8),
}

impl Reading {
    /// Reads a path; an empty one is the root.
    pub fn of(path: &str) -> Self {
        let whole = symbols(path, true);
        let cut = whole.contains(&Symbol::Byte(b';')).then(|| symbols(path, false));
        Self { whole, cut }
    }

    fn any(&self, mut leads_there: impl FnMut(&[Symbol]) -> bool) -> bool {
        leads_there(&self.whole) || self.cut.as_ref().is_some_and(|cut| leads_there(cut))
    }

    fn all(&self, mut leads_there: impl FnMut(&[Symbol]) -> bool) -> bool {
        leads_there(&self.whole) && self.cut.as_ref().is_none_or(|cut| leads_there(cut))
    }
}

fn symbols(path: &str, keep_parameters: bool) -> Vec<Symbol> {
    let whole = || (path.as_bytes().to_vec(), vec![false; path.len()]);
    let (bytes, is_encoded) = decoded(path.as_bytes()).unwrap_or_else(whole); // which is refused before
    let mut symbols = Vec::with_capacity(bytes.len());
    let mut in_parameter = false;
    for (byte, is_encoded) in bytes.into_iter().zip(is_encoded) {
        match byte {
            b'/' => {
                in_parameter = false;
                let plain = !is_encoded && !matches!(symbols.last(), Some(Symbol::Slash | Symbol::Doubtful));
                symbols.push(if plain { Symbol::Slash } else { Symbol::Doubtful });
            }
            b';' if !keep_parameters => in_parameter = true,
            _ if in_parameter => {}
            byte => symbols.push(Symbol::Byte(byte)),
        }
    }
    if let Some(last @ Symbol::Slash) = symbols.last_mut() {
        *last = Symbol::Last;
    }
    symbols
}

/// Which paths: `*` stands for any part of a segment, `**` for any number of whole segments, none included:
/// `/catalog/**` is `/catalog` and everything below it. Upper and lower case differ.
#[derive(Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Slash,
    Byte(u8),
    /// `*`
    Star,
    /// `/**`: nothing, or a slash and then
    DeepSlash,
    /// anything; always behind the one before.
    Deep,
}

/// Which way of reading counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One that leads there is enough.
    Any,
    /// All must lead there.
    Every,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence that starts with the key's or the option's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(below) = text.strip_prefix('/') else {
            return Err("is not a path, which begins with \"/\", as in \"/catalog/**\"".into());
        };
        if text.contains(['?', '#', ';', '\\']) || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err("has a character that a pattern cannot have (? # ; \\ or a blank)".into());
        }
        let mut steps = Vec::new();
        for segment in below.trim_end_matches('/').split('/') {
            if segment == "**" {
                steps.extend([Step::DeepSlash, Step::Deep]);
                continue;
            }
            if segment.is_empty() && below.trim_end_matches('/').is_empty() {
                continue; // the root
            }
            if segment.is_empty() {
                return Err("has an empty segment".into());
            }
            if segment.contains("**") {
                return Err("has \"**\" beside something else; it stands for whole segments".into());
            }
            steps.push(Step::Slash);
            let (bytes, mut at, first) = (segment.as_bytes(), 0, steps.len());
            while at < bytes.len() {
                let (byte, width) = decode(&bytes[at..]);
                at += width;
                match byte {
                    b'*' if width == 1 => steps.push(Step::Star),
                    b'/' | b';' | b'\\' | 0..=0x1f | 0x7f => return Err("has an encoded separator".into()),
                    byte => steps.push(Step::Byte(byte)),
                }
            }
            if matches!(steps[first..], [Step::Byte(b'.')] | [Step::Byte(b'.'), Step::Byte(b'.')]) {
                return Err("has a dot segment, which no request can have".into());
            }
        }
        Ok(Self { text: text.to_owned(), steps })
    }

    /// Whether some way of reading the path leads there: for what is denied.
    pub fn matches_possibly(&self, path: &Reading) -> bool {
        path.any(|symbols| self.leads_there(symbols, Mode::Any))
    }

    /// Whether every way of reading the path leads there: for what is allowed.
    pub fn matches_surely(&self, path: &Reading) -> bool {
        path.all(|symbols| self.leads_there(symbols, Mode::Every))
    }

    /// Follows all ways through the pattern at once: no path, however made, takes more than its length times ours.
    fn leads_there(&self, symbols: &[Symbol], mode: Mode) -> bool {
        let end = self.steps.len();
        let (mut here, mut next) = (vec![false; end + 1], vec![false; end + 1]);
        self.enter(&mut here, 0);
        for symbol in symbols {
            next.fill(false);
            for at in (0..=end).filter(|at| here[*at]) {
                let may_be_nothing = match symbol {
                    Symbol::Last => true,
                    Symbol::Doubtful => mode == Mode::Any,
                    Symbol::Slash | Symbol::Byte(_) => false,
                };
                if may_be_nothing {
                    self.enter(&mut next, at);
                }
                let Some(step) = self.steps.get(at) else { continue };
                let doubtful = matches!(symbol, Symbol::Doubtful | Symbol::Last) && mode == Mode::Any;
                let slash = *symbol == Symbol::Slash || doubtful;
                match step {
                    Step::Slash | Step::DeepSlash if slash => self.enter(&mut next, at + 1),
                    Step::Byte(expected) if *symbol == Symbol::Byte(*expected) => self.enter(&mut next, at + 1),
                    Step::Star if doubtful || matches!(symbol, Symbol::Byte(_)) => self.enter(&mut next, at),
                    Step::Deep => self.enter(&mut next, at),
                    Step::Slash | Step::DeepSlash | Step::Byte(_) | Step::Star => {}
                }
            }
            std::mem::swap(&mut here, &mut next);
        }
        here[end]
    }

    /// Marks a place in the pattern, and those that are reached from it by nothing at all.
    fn enter(&self, places: &mut [bool], at: usize) {
        if std::mem::replace(&mut places[at], true) {
            return;
        }
        match self.steps.get(at) {
            Some(Step::Star | Step::Deep) => self.enter(places, at + 1),
            Some(Step::DeepSlash) => self.enter(places, at + 2),
            Some(Step::Slash | Step::Byte(_)) | None => {}
        }
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathPattern({:?})", self.text)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// A method, or any, and paths: `GET /catalog/**`, `/search`. A rule for `GET` is one for `HEAD`, too (RFC 9110 section
/// 9.3.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    method: Option<String>,
    pattern: PathPattern,
}

impl Rule {
    pub(super) fn parse(text: &str) -> Result<Self, Complaint> {
        let (method, pattern) = match text.trim().split_once(' ') {
            Some((method, pattern)) => (Some(method), pattern.trim_start()),
            None => (None, text.trim()),
        };
        let example = "write it as in \"GET /catalog/**\", or without method for all: \"/catalog/**\"";
        let method = method.filter(|method| *method != "*").map(self::method).transpose();
        let method = method.map_err(|wrong| Complaint::new(wrong, example))?;
        let pattern = PathPattern::parse(pattern).map_err(|wrong| Complaint::new(wrong, example))?;
        Ok(Self { method, pattern })
    }
}

/// A method as rules and keys name it: a token (RFC 9110 section 5.6.2) in upper case.
///
/// # Errors
///
/// What is wrong, as the end of a sentence.
pub fn method(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_';
    if text.is_empty() || text.len() > 32 || !text.bytes().all(good) {
        return Err("does not name a method, as in \"GET\" or \"POST\"".into());
    }
    Ok(text.to_owned())
}

/// Whether a rule or a key for the method `ours` lets the method `asked` through. Methods are case-sensitive.
pub fn covers(ours: &str, asked: &str) -> bool {
    ours == asked || (ours == "GET" && asked == "HEAD")
}

/// What a route lets through.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PathRules {
    /// If there are any, only what one of them allows goes through.
    pub allow: Vec<Rule>,
    /// What never goes through, whatever `allow` says.
    pub deny: Vec<Rule>,
}

impl PathRules {
    /// Whether everything goes through.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether a request with this method and path goes through.
    pub fn permit(&self, method: &str, path: &Reading) -> bool {
        let denies = |rule: &Rule| {
            // some servers read methods without regard to case
            let same = |ours: &String| ours.eq_ignore_ascii_case(method) || covers(ours, &method.to_ascii_uppercase());
            rule.method.as_ref().is_none_or(same) && rule.pattern.matches_possibly(path)
        };
        let allows = |rule: &Rule| {
            rule.method.as_ref().is_none_or(|ours| covers(ours, method)) && rule.pattern.matches_surely(path)
        };
        !self.deny.iter().any(denies) && (self.allow.is_empty() || self.allow.iter().any(allows))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap_or_else(|wrong| panic!("{text} {wrong}"))
    }

    #[test]
    fn a_star_stays_in_its_segment_and_two_go_across() {
        let rows = [
            ("/", "/", true),
            ("/", "", true),
            ("/", "/x", false),
            ("/**", "", true),
            ("/**", "/", true),
            ("/**", "/x/y", true),
            ("/catalog/**", "/catalog", true),
            ("/catalog/**", "/catalog/", true),
            ("/catalog/**", "/catalog/v2/record", true),
            ("/catalog/**", "/catalogue", false),
            ("/catalog/**", "/x/catalog", false),
            ("/catalog/*", "/catalog", false),
            ("/catalog/*", "/catalog/v2", true),
            ("/catalog/*", "/catalog/v2/", true),
            ("/catalog/*", "/catalog/v2/record", false),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/b/b/c", false),
            ("/a/**/c", "/a/c", true),
            ("/a/**/c", "/a/b/b/c", true),
            ("/a/**/c", "/a/bc", false),
            ("/v*/x", "/v2/x", true),
            ("/v*/x", "/v/x", true),
            ("/*.json", "/a.json", true),
            ("/*.json", "/a.jsonx", false),
            ("/a%20b", "/a%20b", true),
            ("/A", "/a", false),
            ("/a/", "/a", true),
        ];
        for (text, path, expected) in rows {
            let reading = Reading::of(path);
            assert_eq!(pattern(text).matches_possibly(&reading), expected, "possibly: {text} {path}");
            assert_eq!(pattern(text).matches_surely(&reading), expected, "surely: {text} {path}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_denied_by_either_and_allowed_by_both() {
        let rows = [
            ("an encoded slash as a slash", "/users/*/keys", "/users/me%2Fkeys", true, false),
            ("an encoded slash as a byte", "/users/*", "/users/a%2Fb", true, false),
            ("below both", "/users/**", "/users/a%2Fb", true, true),
            ("one level deeper", "/users/*/x", "/users/a%252Fb%2Fx", true, false),
            ("two slashes as one", "/oauth/token", "//oauth//token", true, false),
            ("an empty segment", "/a/*/c", "/a//c", true, false),
            ("an encoded slash at the end", "/oauth", "/oauth%2f", true, false),
            ("a parameter cut off", "/users/me", "/users/me;x=1", true, false),
            ("a parameter as a name", "/a/*/c", "/a/;x/c", true, false),
            ("a parameter in a name that is open", "/users/*", "/users/me;x=1", true, true),
            ("digits of an encoding encoded", "/users/me", "/users/%%36%64e", true, true),
            ("letters encoded", "/users/me", "/us%65rs/%256de", true, true),
            ("elsewhere", "/users/me", "/users/you", false, false),
        ];
        for (case, text, path, possibly, surely) in rows {
            let reading = Reading::of(path);
            assert_eq!(pattern(text).matches_possibly(&reading), possibly, "{case}");
            assert_eq!(pattern(text).matches_surely(&reading), surely, "{case}");
        }
    }

    #[test]
    fn rules_deny_before_they_allow() {
        let rules = |allow: &[&str], deny: &[&str]| {
            let read = |texts: &[&str]| texts.iter().map(|text| Rule::parse(text).unwrap()).collect();
            PathRules { allow: read(allow), deny: read(deny) }
        };
        let none = rules(&[], &[]);
        let reading = rules(&["GET /catalog/**", "POST /catalog/v2/search"], &[]);
        let no_deletes = rules(&[], &["DELETE /**"]);
        let both = rules(&["/catalog/**"], &["* /catalog/secret/**"]);
        let rows = [
            ("no rules", &none, "DELETE", "/x", true),
            ("allowed", &reading, "GET", "/catalog/v2/x", true),
            ("HEAD is a GET", &reading, "HEAD", "/catalog/v2/x", true),
            ("another method", &reading, "POST", "/catalog/v2/x", false),
            ("its own method", &reading, "POST", "/catalog/v2/search", true),
            ("another path", &reading, "GET", "/workflows", false),
            ("a method in lower case", &reading, "get", "/catalog/v2/x", false),
            ("denied", &no_deletes, "DELETE", "/x", false),
            ("denied in lower case, too", &no_deletes, "delete", "/x", false),
            ("not denied", &no_deletes, "GET", "/x", true),
            ("allowed, but denied below", &both, "GET", "/catalog/secret/x", false),
            ("allowed beside", &both, "GET", "/catalog/x", true),
            ("neither", &both, "GET", "/x", false),
        ];
        for (case, rules, method, path, expected) in rows {
            assert_eq!(rules.permit(method, &Reading::of(path)), expected, "{case}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "catalog", "/a?b", "/a b", "/a//b", "/a**", "/**a/b", "/a;b", "/a/../b", "/a%2Fb", "/./x"] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
        for text in ["get /x", "GET", "GET x", "G\u{e9}T /x"] {
            assert!(Rule::parse(text).is_err(), "{text}");
        }
    }

    /// A path of a few short segments, mostly from the letters of the patterns.
    fn segments() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[abc]{1,2}", 0..4)
    }

    fn patterns() -> impl Strategy<Value = String> {
        let segment =
            prop_oneof![3 => "[abc]{1,2}", 1 => Just("*".to_owned()), 1 => Just("**".to_owned()), 1 => "[abc]\\*"];
        proptest::collection::vec(segment, 1..4).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    /// How each byte of a path is written: plain, or encoded up to three times; slashes also doubled, and parameters
    /// before them.
    fn spelled(plain: &str, choices: &[u8]) -> String {
        let mut spelled = String::new();
        for (at, byte) in plain.bytes().enumerate() {
            let choice = choices.get(at).copied().unwrap_or(0);
            let encoded = |times: u8| format!("%{}{byte:02x}", "25".repeat(usize::from(times)));
            match (byte, choice) {
                (b'/', 1) => spelled.push_str("//"),
                (b'/', 2) if at > 0 => spelled.push_str(";v=1/"),
                (b'/', 3 | 4) if at > 0 => spelled.push_str(&encoded(choice - 3)),
                (_, 5..=7) if byte != b'/' => spelled.push_str(&encoded(choice - 5)),
                // the digits of the encoding encoded
                (_, 8) if byte != b'/' || at > 0 => {
                    spelled.push('%');
                    format!("{byte:02x}").bytes().for_each(|digit| spelled.push_str(&format!("%{digit:02x}")));
                }
                _ => spelled.push(char::from(byte)),
            }
        }
        if choices.first() == Some(&7) {
            spelled.push('/');
        }
        spelled
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn whatever_the_spelling_a_denied_path_never_passes(
            text in patterns(), segments in segments(), choices in proptest::collection::vec(0..10_u8, 12)
        ) {
            let plain = format!("/{}", segments.join("/"));
            let spelled = spelled(&plain, &choices);
            let pattern = pattern(&text);
            if pattern.matches_possibly(&Reading::of(&plain)) {
                prop_assert!(pattern.matches_possibly(&Reading::of(&spelled)), "{text} {plain} as {spelled}");
            }
            // and what is allowed in some spelling is allowed as it is meant
            if pattern.matches_surely(&Reading::of(&spelled)) {
                prop_assert!(pattern.matches_surely(&Reading::of(&plain)), "{text} {plain} as {spelled}");
            }
        }

        #[test]
        fn what_is_surely_there_is_possibly_there(text in patterns(), path in "[/abc%2Ff;]{0,12}") {
            let (pattern, reading) = (pattern(&text), Reading::of(&path));
            prop_assert!(!pattern.matches_surely(&reading) || pattern.matches_possibly(&reading), "{text} {path}");
        }

        #[test]
        fn no_text_makes_it_panic(text in "[/*a.%;?é ]{0,12}", path: String) {
            if let Ok(pattern) = PathPattern::parse(&text) {
                let _ = pattern.matches_possibly(&Reading::of(&path));
            }
        }
    }
}
