//! Paths as servers may read them, and patterns over them. Pure.
//!
//! One path can be written in many ways, and servers do not agree which of them are the same: percent-encoded once or
//! more, slashes doubled, `%2F` for a slash, parameters behind `;`, upper and lower case, blanks and dots at a segment's
//! end, letters of full width. So a pattern is never compared with what was written but with a [`Reading`], in which
//! everything is decoded and what can be read in two ways is marked. What is denied is denied if *any* way of reading the
//! path leads there; what is allowed is allowed only if *every* way does. The path itself goes upstream as it came.
//!
//! Not covered: what a server puts behind a name by its own rules (`/admin.json`, `/admin::$DATA`), names that it takes
//! for others (links, short file names), and letters that merely look alike.

use std::borrow::Cow;
use std::fmt;

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

/// The form in which paths are shown in the audit and refused ones are kept: decoded, runs of slashes as one, none at the
/// end, path parameters (`;x=y`) cut off. Never sent anywhere.
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
pub(crate) struct Reading {
    /// With parameters as ordinary text.
    whole: Vec<Symbol>,
    /// With parameters cut off, if there are any.
    cut: Option<Vec<Symbol>>,
}

/// A character as patterns know it: a Unicode scalar value, or [`NOT_TEXT`] and a byte that is part of none.
type Code = u32;

/// What is added to bytes that are not UTF-8: behind the last scalar value.
const NOT_TEXT: Code = 0x11_0000;

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
    Char(Code),
    /// A character that some servers drop: a blank or a dot at a segment's end, a `%` that encodes nothing.
    Loose(Code),
    /// A character at which the path ends for some servers: `?`, `#` and control characters, all of which were encoded.
    End(Code),
    /// A character that some servers take for up to `most` others, or for none.
    Vague {
        code: Code,
        most: u8,
        may_be_slash: bool,
    },
}

impl Reading {
    /// Reads a path; an empty one is the root.
    pub(crate) fn of(path: &str) -> Self {
        let whole = symbols(path, true);
        let cut = whole.contains(&Symbol::Char(CUT)).then(|| symbols(path, false));
        Self { whole, cut }
    }

    fn any(&self, mut leads_there: impl FnMut(&[Symbol]) -> bool) -> bool {
        leads_there(&self.whole) || self.cut.as_ref().is_some_and(|cut| leads_there(cut))
    }

    fn all(&self, mut leads_there: impl FnMut(&[Symbol]) -> bool) -> bool {
        leads_there(&self.whole) && self.cut.as_ref().is_none_or(|cut| leads_there(cut))
    }
}

/// What begins a path parameter.
const CUT: Code = b';' as Code;

fn symbols(path: &str, keep_parameters: bool) -> Vec<Symbol> {
    let whole = || (path.as_bytes().to_vec(), vec![false; path.len()]);
    let (bytes, is_encoded) = decoded(path.as_bytes()).unwrap_or_else(whole); // which is refused before
    let mut symbols = Vec::with_capacity(bytes.len());
    let mut in_parameter = false;
    let mut passed_over = 0;
    for (at, code) in codes(&bytes) {
        if at < passed_over {
            continue;
        }
        if code == Code::from(b'/') {
            in_parameter = false;
            let plain = !is_encoded[at] && !matches!(symbols.last(), Some(Symbol::Slash | Symbol::Doubtful));
            symbols.push(if plain { Symbol::Slash } else { Symbol::Doubtful });
        } else if in_parameter || (code == CUT && !keep_parameters) {
            in_parameter = true;
        } else if is_utf16_encoding(&bytes[at..]) {
            passed_over = at + "%u0000".len();
            symbols.push(Symbol::Vague { code, most: 1, may_be_slash: true });
        } else {
            symbols.push(symbol(code));
        }
    }
    loosen(&mut symbols);
    if let Some(last @ Symbol::Slash) = symbols.last_mut() {
        *last = Symbol::Last;
    }
    symbols
}

/// The characters of what was decoded, and where each begins.
fn codes(bytes: &[u8]) -> impl Iterator<Item = (usize, Code)> {
    let mut start = 0;
    bytes.utf8_chunks().flat_map(move |chunk| {
        let valid = start;
        let invalid = valid + chunk.valid().len();
        start = invalid + chunk.invalid().len();
        let chars = chunk.valid().char_indices().map(move |(at, char)| (valid + at, Code::from(char)));
        let rest = chunk.invalid().iter().enumerate();
        chars.chain(rest.map(move |(at, byte)| (invalid + at, NOT_TEXT + Code::from(*byte))))
    })
}

/// `%u0041`, which some servers take for a letter.
fn is_utf16_encoding(bytes: &[u8]) -> bool {
    bytes.len() >= 6 && bytes[0] == b'%' && bytes[1] | 0x20 == b'u' && bytes[2..6].iter().all(u8::is_ascii_hexdigit)
}

/// A character by itself, wherever it stands.
fn symbol(code: Code) -> Symbol {
    match code {
        0..=0x1f | 0x7f | 0x23 | 0x3f => Symbol::End(code), // "#" and "?"
        0x25 => Symbol::Loose(code),                        // "%"
        _ => match blur(code) {
            None => Symbol::Char(code),
            Some((most, may_be_slash)) => Symbol::Vague { code, most, may_be_slash },
        },
    }
}

/// For how many characters some server may take one that is not ASCII, and whether the slash may be among them. `None`
/// where nobody takes it for anything but itself, whatever the case.
///
/// By what is common practice: compatibility forms (NFKC: full width, ligatures, letters of mathematics, enclosed ones),
/// accents taken off, "best fit" of legacy code pages (which maps Greek to Latin letters), characters without a look that
/// are dropped, and what is not UTF-8, as an overlong slash. Whole blocks, where most of a block is concerned.
fn blur(code: Code) -> Option<(u8, bool)> {
    match code {
        0..0x80 => None,
        // Latin, Greek, combining marks: letters with something on them
        0xc0..0x2b0 | 0x300..0x400 | 0x1e00..0x2000 => Some((2, false)),
        0x80..0xc0 | 0x2b0..0x300 => Some((MOST, true)),
        // dashes and quotation marks ("--"), signs of currencies ("EUR"): some of ASCII's, but no slash
        0x2010..0x2016 | 0x2018..0x2020 => Some((2, false)),
        0x20a0..0x20d0 => Some((3, false)),
        // without a look, in other scripts' blocks
        0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..0x1810 => Some((1, false)),
        // phonetic extensions, punctuation, letterlike and enclosed characters, forms of arrows and lines
        0x1d00..0x1e00 | 0x2000..0x2e80 | 0x3000..0x3004 | 0x3164 | 0x3200..0x3400 => Some((MOST, true)),
        0xa700..0xa800 | 0xab30..0xab70 | 0xfb00..0xfb07 | 0xfe00..0xfe70 | 0xfeff..0x1_0000 => Some((MOST, true)),
        // letters of mathematics, enclosed and old computers' ones; tags
        0x1_0780..0x1_07c0 | 0x1_d400..0x1_d800 | 0x1_f100..0x1_f200 | 0x1_fb00..0x1_fc00 => Some((MOST, true)),
        0xe_0000..0xe_1000 => Some((1, false)),
        NOT_TEXT.. => Some((MOST, true)),
        _ => None,
    }
}

/// The most ASCII characters that one character stands for in NFKC: the enclosed abbreviations of a calendar have four.
const MOST: u8 = 4;

/// Marks what some servers take off a segment: blanks (also written `+`) at both ends, dots at its end. A segment of
/// nothing else can be anything.
fn loosen(symbols: &mut [Symbol]) {
    let is_boundary = |symbol: &Symbol| matches!(symbol, Symbol::Slash | Symbol::Doubtful | Symbol::End(_));
    let loose = |symbol: &mut Symbol, also_dots: bool| match *symbol {
        Symbol::Char(code @ (0x20 | 0x2b)) => *symbol = Symbol::Loose(code),
        Symbol::Char(code @ 0x2e) if also_dots => *symbol = Symbol::Loose(code),
        _ => {}
    };
    let is_transparent = |symbol: &Symbol| matches!(symbol, Symbol::Loose(_) | Symbol::Vague { .. });
    let mut start = 0;
    while start < symbols.len() {
        let length = symbols[start..].iter().position(is_boundary).unwrap_or(symbols.len() - start);
        let (segment, rest) = symbols[start..].split_at_mut(length);
        for symbol in segment.iter_mut() {
            loose(symbol, false);
            if !is_transparent(symbol) {
                break;
            }
        }
        for symbol in segment.iter_mut().rev() {
            loose(symbol, true);
            if !is_transparent(symbol) {
                break;
            }
        }
        let may_be_none = |symbol: &Symbol| match symbol {
            Symbol::Loose(_) => true,
            Symbol::Vague { may_be_slash, .. } => *may_be_slash,
            _ => false,
        };
        let ends_early = matches!(rest.first(), Some(Symbol::End(_)));
        if segment.iter().all(may_be_none) && (!segment.is_empty() || ends_early) {
            for symbol in segment.iter_mut() {
                if let Symbol::Loose(code) = *symbol {
                    *symbol = Symbol::Vague { code, most: 1, may_be_slash: true };
                }
            }
            // there may be nothing between the slashes beside it
            if let Some(slash @ Symbol::Slash) = rest.first_mut() {
                *slash = Symbol::Doubtful;
            }
            if let Some(slash @ Symbol::Slash) = start.checked_sub(1).map(|before| &mut symbols[before]) {
                *slash = Symbol::Doubtful;
            }
        }
        start += length + 1;
    }
}

/// How a character is compared where case makes no difference.
fn folded(code: Code) -> Code {
    match char::from_u32(code) {
        Some(char) if char.is_ascii() => Code::from(char.to_ascii_lowercase()),
        Some(char) => char.to_uppercase().next().and_then(|upper| upper.to_lowercase().next()).map_or(code, Code::from),
        None => code,
    }
}

/// Which paths: `*` stands for any part of a segment, `**` for any number of whole segments, none included:
/// `/catalog/**` is `/catalog` and everything below it. Upper and lower case differ for what is allowed, not for what is
/// denied.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PathPattern {
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Slash,
    Char(Code),
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
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
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
            let (mut bytes, mut is_star, mut at) = (Vec::new(), Vec::new(), 0);
            while at < segment.len() {
                let (byte, width) = decode(&segment.as_bytes()[at..]);
                at += width;
                if matches!(byte, b'/' | b';' | b'\\' | b'?' | b'#' | 0..=0x1f | 0x7f) {
                    return Err("has an encoded separator".into());
                }
                bytes.push(byte);
                is_star.push(byte == b'*' && width == 1);
            }
            if matches!(&bytes[..], b"." | b"..") {
                return Err("has a dot segment, which no request can have".into());
            }
            steps.extend(codes(&bytes).map(|(at, code)| if is_star[at] { Step::Star } else { Step::Char(code) }));
        }
        Ok(Self { text: text.to_owned(), steps })
    }

    /// This path and all below it, every character standing for itself.
    fn below(path: &str) -> Self {
        let mut steps = Vec::new();
        for (_, code) in codes(&canonical(path)) {
            steps.push(if code == Code::from(b'/') { Step::Slash } else { Step::Char(code) });
        }
        steps.extend([Step::DeepSlash, Step::Deep]);
        Self { text: path.to_owned(), steps }
    }

    /// Whether some way of reading the path leads there: for what is denied.
    pub(crate) fn matches_possibly(&self, path: &Reading) -> bool {
        path.any(|symbols| self.leads_there(symbols, Mode::Any))
    }

    /// Whether every way of reading the path leads there: for what is allowed.
    pub(crate) fn matches_surely(&self, path: &Reading) -> bool {
        path.all(|symbols| self.leads_there(symbols, Mode::Every))
    }

    /// Follows all ways through the pattern at once: no path, however made, takes more than its length times ours.
    fn leads_there(&self, symbols: &[Symbol], mode: Mode) -> bool {
        let end = self.steps.len();
        let (mut here, mut next) = (vec![false; end + 1], vec![false; end + 1]);
        self.enter(&mut here, 0, mode);
        for symbol in symbols {
            match (symbol, mode) {
                (Symbol::End(_), Mode::Any) if here[end] => return true,
                (Symbol::End(_), Mode::Every) if !here[end] => return false,
                _ => {}
            }
            next.fill(false);
            for at in (0..=end).filter(|at| here[*at]) {
                if may_be_nothing(symbol, mode) {
                    self.enter(&mut next, at, mode);
                }
                let Some(step) = self.steps.get(at) else { continue };
                if takes(step, symbol, mode) {
                    self.enter(&mut next, at + 1, mode);
                }
                if stays(step, symbol, mode) {
                    self.enter(&mut next, at, mode);
                }
            }
            if let (Symbol::Vague { most, may_be_slash, .. }, Mode::Any) = (symbol, mode) {
                self.run_on(&here, &mut next, *most, *may_be_slash);
            }
            std::mem::swap(&mut here, &mut next);
        }
        here[end]
    }

    /// Marks the places that are reached from `here` by up to `most` characters, whichever they are.
    fn run_on(&self, here: &[bool], next: &mut [bool], most: u8, may_be_slash: bool) {
        let mut reached = here.to_vec();
        for _ in 0..most {
            let before = std::mem::replace(&mut reached, vec![false; here.len()]);
            for at in (0..self.steps.len()).filter(|at| before[*at]) {
                match self.steps[at] {
                    Step::Char(_) => self.enter(&mut reached, at + 1, Mode::Any),
                    Step::Slash | Step::DeepSlash if may_be_slash => self.enter(&mut reached, at + 1, Mode::Any),
                    Step::Star | Step::Deep => self.enter(&mut reached, at, Mode::Any),
                    Step::Slash | Step::DeepSlash => {}
                }
            }
            next.iter_mut().zip(&reached).for_each(|(next, reached)| *next |= reached);
        }
    }

    /// Marks a place in the pattern, and those that are reached from it by nothing at all.
    fn enter(&self, places: &mut [bool], at: usize, mode: Mode) {
        if std::mem::replace(&mut places[at], true) {
            return;
        }
        match self.steps.get(at) {
            Some(Step::Star | Step::Deep) => self.enter(places, at + 1, mode),
            Some(Step::DeepSlash) => self.enter(places, at + 2, mode),
            Some(Step::Char(code)) if mode == Mode::Any && blur(*code).is_some() => self.enter(places, at + 1, mode),
            Some(Step::Slash | Step::Char(_)) | None => {}
        }
    }
}

/// Whether a symbol may be none at all. What is allowed has to be so with it as well: see [`stays`].
fn may_be_nothing(symbol: &Symbol, mode: Mode) -> bool {
    match symbol {
        Symbol::Last => true,
        Symbol::Doubtful | Symbol::Loose(_) | Symbol::End(_) | Symbol::Vague { .. } => mode == Mode::Any,
        Symbol::Slash | Symbol::Char(_) => false,
    }
}

/// Whether a step of a pattern is done with this symbol.
fn takes(step: &Step, symbol: &Symbol, mode: Mode) -> bool {
    match (step, symbol) {
        (Step::Slash | Step::DeepSlash, Symbol::Slash) => true,
        (Step::Slash | Step::DeepSlash, Symbol::Doubtful | Symbol::Last) => mode == Mode::Any,
        (
            Step::Char(ours),
            Symbol::Char(code) | Symbol::Loose(code) | Symbol::End(code) | Symbol::Vague { code, .. },
        ) => match mode {
            Mode::Any => folded(*ours) == folded(*code) || blur(*ours).is_some(),
            Mode::Every => ours == code,
        },
        _ => false,
    }
}

/// Whether a step of a pattern goes on behind this symbol.
fn stays(step: &Step, symbol: &Symbol, mode: Mode) -> bool {
    match (step, symbol) {
        (Step::Deep, _) => true,
        (Step::Star, Symbol::Char(_) | Symbol::Loose(_) | Symbol::End(_)) => true,
        (Step::Star, Symbol::Vague { may_be_slash, .. }) => mode == Mode::Any || !may_be_slash,
        (Step::Star, Symbol::Doubtful | Symbol::Last) => mode == Mode::Any,
        // a character that is itself taken for several
        (Step::Char(ours), Symbol::Char(_) | Symbol::Loose(_) | Symbol::End(_) | Symbol::Vague { .. }) => {
            mode == Mode::Any && blur(*ours).is_some()
        }
        (Step::Star | Step::Char(_), Symbol::Slash)
        | (Step::Char(_), Symbol::Doubtful | Symbol::Last)
        | (Step::Slash | Step::DeepSlash, _) => false,
    }
}

/// A path that is never proxied, with all below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RefusedPath {
    /// In the form that [`canonical`] gives.
    canonical: Vec<u8>,
    pattern: PathPattern,
}

impl RefusedPath {
    /// Every character of `path` stands for itself.
    pub(crate) fn new(path: &str) -> Self {
        Self { canonical: canonical(path).into_owned(), pattern: PathPattern::below(path) }
    }
}

/// Whether some way of reading a path leads to one of the refused ones, or below it. Nearly every path can be read in one
/// way only, but for its case; that is seen without an allocation.
pub(crate) fn is_refused(refused: &[RefusedPath], path: &str) -> bool {
    if refused.iter().all(|refused| refused.canonical.is_ascii()) && is_read_in_one_way(path) {
        let path = path.as_bytes();
        return refused.iter().any(|RefusedPath { canonical, .. }| {
            path.len() >= canonical.len()
                && path[..canonical.len()].eq_ignore_ascii_case(canonical)
                && matches!(path.get(canonical.len()), None | Some(b'/'))
        });
    }
    let reading = Reading::of(path);
    refused.iter().any(|refused| refused.pattern.matches_possibly(&reading))
}

/// Whether a path has nothing that [`Reading`] marks, so that it can be compared as it is, without regard to case.
fn is_read_in_one_way(path: &str) -> bool {
    let mut before = b'\0';
    for byte in path.bytes() {
        let is_odd = matches!(byte, 0..=b' ' | b'%' | b'+' | b';' | 0x7f..);
        if is_odd || (byte == b'/' && matches!(before, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    before != b'.'
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
pub(crate) struct Rule {
    method: Option<String>,
    pattern: PathPattern,
}

impl Rule {
    /// What a good one looks like, as a remedy.
    pub(crate) const EXAMPLE: &str = "write it as in \"GET /catalog/**\", or without method for all: \"/catalog/**\"";

    /// Reads one as it is written in a configuration.
    ///
    /// # Errors
    ///
    /// What is wrong, as the end of a sentence.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (method, pattern) = match text.trim().split_once(' ') {
            Some((method, pattern)) => (Some(method), pattern.trim_start()),
            None => (None, text.trim()),
        };
        let method = method.filter(|method| *method != "*").map(self::method).transpose()?;
        Ok(Self { method, pattern: PathPattern::parse(pattern)? })
    }
}

/// A method as rules and keys name it: a token (RFC 9110 section 5.6.2) in upper case.
///
/// # Errors
///
/// What is wrong, as the end of a sentence.
pub(crate) fn method(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_';
    if text.is_empty() || text.len() > 32 || !text.bytes().all(good) {
        return Err("does not name a method, as in \"GET\" or \"POST\"".into());
    }
    Ok(text.to_owned())
}

/// Whether a rule or a key for the method `ours` lets the method `asked` through. Methods are case-sensitive.
pub(crate) fn covers(ours: &str, asked: &str) -> bool {
    ours == asked || (ours == "GET" && asked == "HEAD")
}

/// What a route lets through.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PathRules {
    /// If there are any, only what one of them allows goes through.
    pub allow: Vec<Rule>,
    /// What never goes through, whatever `allow` says.
    pub deny: Vec<Rule>,
}

impl PathRules {
    /// Whether everything goes through.
    pub(crate) fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether a request with this method and path goes through.
    pub(crate) fn permit(&self, method: &str, path: &Reading) -> bool {
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
            ("/A", "/b", false),
            ("/a/", "/a", true),
            ("/a.", "/a.", true),
            ("/\u{e9}t\u{e9}", "/%C3%A9t%C3%A9", true),
            ("/*", "/\u{e9}t\u{e9}", true),
            ("/\u{6771}\u{4eac}/*", "/%E6%9D%B1%E4%BA%AC/x", true),
            ("/\u{6771}\u{4eac}", "/\u{4eac}\u{6771}", false),
            ("/*", "/100%", true),
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
            ("upper case", "/admin", "/Admin", true, false),
            ("upper case of another script", "/\u{430}\u{431}", "/\u{410}\u{411}", true, false),
            ("a blank at the end", "/admin", "/admin%20", true, false),
            ("blanks at both ends of a segment", "/admin/x", "/+admin%20%20/x", true, false),
            ("a dot at the end", "/admin", "/admin.", true, false),
            ("dots and blanks", "/admin/x", "/admin.%20./x", true, false),
            ("a segment of dots", "/a/b", "/a/.../b", true, false),
            ("a segment of dots that is open", "/a/**", "/a/.../b", true, false),
            ("a segment of dots as one", "/a/*", "/a/...", true, false),
            ("a segment of a blank", "/admin", "/admin/%20", true, false),
            ("a segment of nothing to be seen", "/admin", "/admin/%E2%80%8B", true, false),
            ("an end by NUL", "/admin", "/admin%2500.txt", true, false),
            ("an end by a question mark", "/admin", "/admin%3Fx", true, false),
            ("an end by a question mark that is open", "/admin/*", "/admin/a%3Fx", true, true),
            ("an end before what is allowed", "/a/**/x", "/b%3F/x", false, false),
            ("a slash of full width", "/a/b", "/a%EF%BC%8Fb", true, false),
            ("a slash of full width in a segment", "/*", "/a%EF%BC%8Fb", true, false),
            ("letters of full width", "/admin", "/\u{ff41}\u{ff24}min", true, false),
            ("a ligature", "/office", "/o\u{fb03}ce", true, false),
            ("a long s", "/users", "/u\u{17f}ers", true, false),
            ("an accent", "/admin", "/\u{e1}dmin", true, false),
            ("an accent apart", "/admin", "/a\u{301}dmin", true, false),
            ("nothing to be seen", "/admin", "/ad\u{200b}min", true, false),
            ("an overlong slash", "/a/b", "/a%C0%AFb", true, false),
            ("UTF-16", "/admin", "/%u0061dmin", true, false),
            ("a percent sign that encodes nothing", "/admin", "/ad%min", true, false),
            ("letters that are themselves", "/*/me", "/\u{43c}\u{435}/me", true, true),
            ("letters that are themselves, elsewhere", "/me", "/\u{43c}\u{435}", false, false),
            ("a longer name", "/admin", "/admin-x", false, false),
            ("an ending", "/admin", "/admin.json", false, false),
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

    /// How each byte of a path is written: plain, encoded up to three times, in upper case or full width; slashes also
    /// doubled, and parameters, blanks and dots before them.
    fn spelled(plain: &str, choices: &[u8]) -> String {
        let mut spelled = String::new();
        for (at, byte) in plain.bytes().enumerate() {
            let choice = choices.get(at).copied().unwrap_or(0);
            let encoded = |times: u8| format!("%{}{byte:02x}", "25".repeat(usize::from(times)));
            match (byte, choice) {
                (b'/', 1) => spelled.push_str("//"),
                (b'/', 2) if at > 0 => spelled.push_str(";v=1/"),
                (b'/', 3 | 4) if at > 0 => spelled.push_str(&encoded(choice - 3)),
                (b'/', 9) if at > 0 => spelled.push_str("%20./"),
                (b'/', 10) if at > 0 => spelled.push_str("%EF%BC%8F"),
                (_, 9) if byte != b'/' => spelled.push(char::from(byte.to_ascii_uppercase())),
                (_, 10) if byte != b'/' => spelled.extend(char::from_u32(u32::from(byte) - 0x21 + 0xff01)),
                (_, 5..=7) if byte != b'/' => spelled.push_str(&encoded(choice - 5)),
                // the digits of the encoding encoded
                (_, 8) if byte != b'/' || at > 0 => {
                    spelled.push('%');
                    format!("{byte:02x}").bytes().for_each(|digit| spelled.push_str(&format!("%{digit:02x}")));
                }
                _ => spelled.push(char::from(byte)),
            }
        }
        let ends = ["", "/", "%20", ".", "+", "%2500", "%3Fx", "%23x", ";x", "%E2%80%8B", "/%20"];
        spelled.push_str(ends[usize::from(choices.first().copied().unwrap_or(0)) % ends.len()]);
        spelled
    }

    /// The path as the most obliging server would understand it that does all of what servers are known to do.
    fn obliging(path: &str) -> String {
        let mut path = decode_to_the_end(path.as_bytes()).unwrap();
        path.make_ascii_lowercase();
        let path: String = String::from_utf8(path)
            .unwrap()
            .chars()
            .filter(|char| *char != '\u{200b}')
            .map(|char| match u32::from(char) {
                wide @ 0xff01..0xff5f => char::from_u32(wide - 0xff01 + 0x21).unwrap(),
                _ => char,
            })
            .collect();
        let path = path.to_ascii_lowercase();
        let path = path.split(['\0', '?', '#']).next().unwrap();
        let segments = path.split('/').map(|segment| segment.split(';').next().unwrap());
        let segments = segments.map(|segment| segment.trim_matches([' ', '+']).trim_end_matches([' ', '.', '+']));
        let segments: Vec<_> = segments.filter(|segment| !segment.is_empty()).collect();
        format!("/{}", segments.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn whatever_the_spelling_a_denied_path_never_passes(
            text in patterns(), segments in segments(), choices in proptest::collection::vec(0..11_u8, 12)
        ) {
            let plain = format!("/{}", segments.join("/"));
            let spelled = spelled(&plain, &choices);
            let pattern = pattern(&text);
            prop_assert_eq!(obliging(&spelled), plain.clone(), "{}", spelled);
            if pattern.matches_possibly(&Reading::of(&plain)) {
                prop_assert!(pattern.matches_possibly(&Reading::of(&spelled)), "{text} {plain} as {spelled}");
            }
            if !segments.is_empty() && is_refused(&[RefusedPath::new(&plain)], &plain) {
                prop_assert!(is_refused(&[RefusedPath::new(&plain)], &spelled), "{plain} as {spelled}");
            }
            // and what is allowed in some spelling is allowed as it is meant, which may be the other case
            if pattern.matches_surely(&Reading::of(&spelled)) {
                prop_assert!(pattern.matches_surely(&Reading::of(&plain)), "{text} {plain} as {spelled}");
            }
        }

        #[test]
        fn what_is_surely_there_is_possibly_there(text in patterns(), path in "[/abcA%2Ff;. +\u{e9}\u{ff0f}]{0,12}") {
            let (pattern, reading) = (pattern(&text), Reading::of(&path));
            prop_assert!(!pattern.matches_surely(&reading) || pattern.matches_possibly(&reading), "{text} {path}");
        }

        #[test]
        fn what_is_read_in_one_way_is_refused_as_if_it_were_not(
            refused in segments(), path in "/[/abcA.-]{0,8}"
        ) {
            let refused = [RefusedPath::new(&format!("/x{}", refused.join("/")))];
            let path = format!("/x{}", &path[1..]);
            let slowly = refused[0].pattern.matches_possibly(&Reading::of(&path));
            prop_assert_eq!(is_refused(&refused, &path), slowly, "{:?} {}", refused, path);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[/*a.%;?é ]{0,12}", path: String) {
            if let Ok(pattern) = PathPattern::parse(&text) {
                let _ = pattern.matches_possibly(&Reading::of(&path));
            }
        }
    }
}
