//! What is wrong with a file, where, and what to do about it; without ever repeating a secret.
//!
//! A configuration may hold secrets, also where nobody expects them: in a URL, under a misspelt key, on a line that does
//! not parse. So a message never quotes a value that may be one, and an excerpt shows a line only if it is known to
//! be harmless: one of the keys in [`SHOWN`] with a value that looks as such values do. Of all other lines the name of a
//! known key is shown at most.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

/// A text and what to call it.
#[derive(Clone)]
pub(crate) struct Source {
    /// What people know it by, mostly its path.
    pub name: String,
    /// The text itself. It may hold secrets.
    pub text: String,
    /// Whether users other than its owner can read the file: such a file must not hold a secret.
    pub readable_by_others: bool,
}

impl Source {
    /// Takes the bytes of a file.
    ///
    /// # Errors
    ///
    /// The place of the first byte that is not UTF-8, which TOML demands.
    pub(crate) fn from_bytes(
        name: impl Into<String>,
        bytes: &[u8],
        readable_by_others: bool,
    ) -> Result<Self, Problems> {
        let name = name.into();
        let (good, bad) = match std::str::from_utf8(bytes) {
            Ok(text) => (text, false),
            // the bytes before `valid_up_to` are UTF-8, so nothing is lost here
            Err(error) => (std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(), true),
        };
        let source = Self { name, text: good.to_owned(), readable_by_others };
        if bad {
            let end = source.text.len();
            let place = Place { source: &source, span: end..end, key: String::new() };
            let problem = Problem::new(Severity::Error, &place, "is not UTF-8 text".into());
            return Err(Problems(vec![problem]));
        }
        Ok(source)
    }

    /// The line and column of a byte, both from 1; the column in characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Shows the name alone.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({:?}, {} bytes)", self.name, self.text.len())
    }
}

/// Whether a problem keeps the configuration from being used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Severity {
    /// It does.
    Error,
    /// It does not.
    Warning,
}

/// One thing that is wrong. Shows on one line as `FILE:LINE:COLUMN: KEY: message; remedy`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    /// Whether it keeps the configuration from being used.
    pub severity: Severity,
    /// Whether others may only follow from it, as from a misspelt key that the right one is missing.
    is_cause: bool,
    /// The file, as its [`Source`] calls it.
    pub file: String,
    /// From 1; 0 if it is the file itself that is wrong, and no line of it.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The dotted path of the key: `account.lab.upstream`. Empty where none can be told.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub remedy: Option<String>,
    excerpt: Option<Excerpt>,
}

impl Problem {
    pub(super) fn new(severity: Severity, place: &Place<'_>, complaint: Complaint) -> Self {
        let Place { source, span, key } = place;
        let (line, column) = source.position(span.start);
        let Complaint { message, remedy } = complaint;
        let excerpt = Excerpt::of(source, span);
        let (file, key) = (source.name.clone(), key.clone());
        Self { severity, is_cause: false, file, line, column, key, message, remedy, excerpt }
    }

    /// A file that is there and cannot be read.
    pub(crate) fn unreadable(name: impl Into<String>, error: &std::io::Error) -> Self {
        let source = Source { name: name.into(), text: String::new(), readable_by_others: false };
        let place = Place { source: &source, span: 0..0, key: String::new() };
        let complaint = match error.kind() {
            std::io::ErrorKind::IsADirectory => Complaint::new("is a folder", "name a file"),
            _ => {
                let remedy = "make it readable for the user that valetd runs as";
                Complaint::new(format!("cannot be read: {error}"), remedy)
            }
        };
        Self { excerpt: None, ..Self::new(Severity::Error, &place, complaint) }
    }

    /// A file or folder that others could change, so that nothing it says is acted on.
    pub(crate) fn not_ours_alone(path: impl Into<String>, problem: String, remedy: String) -> Self {
        let (file, key, remedy) = (path.into(), String::new(), Some(remedy));
        let (severity, message) = (Severity::Error, problem);
        Self { severity, is_cause: true, file, line: 0, column: 0, key, message, remedy, excerpt: None }
    }

    /// The problem and, where it can hold no secret, the line in question: several lines, for a terminal.
    pub(crate) fn rendered(&self) -> String {
        let Some(Excerpt { text, marks }) = &self.excerpt else { return self.to_string() };
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let mut out = format!("{self}\n{margin} |\n{number} | {text}\n");
        if let Some(marks) = marks {
            out.push_str(&format!("{margin} | {}{}\n", " ".repeat(marks.start), "^".repeat(marks.len())));
        }
        out.truncate(out.trim_end().len());
        out
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { severity: _, is_cause: _, file, line, column, key, message, remedy, excerpt: _ } = self;
        match line {
            0 => write!(f, "{file}: ")?,
            line => write!(f, "{file}:{line}:{column}: ")?,
        }
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        f.write_str(message)?;
        remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

/// Everything that is wrong, misspelt keys first, then in the order of the file. Shows one problem a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problems(pub Vec<Problem>);

impl Problems {
    /// All of them as [`Problem::rendered`], with a blank line between.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn rendered(&self) -> String {
        self.0.iter().map(Problem::rendered).collect::<Vec<_>>().join("\n\n")
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// What is wrong with a value, before it is said where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Complaint {
    message: String,
    remedy: Option<String>,
}

impl Complaint {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: Some(remedy.into()) }
    }
}

impl From<String> for Complaint {
    fn from(message: String) -> Self {
        Self { message, remedy: None }
    }
}

impl From<&str> for Complaint {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

/// Where something is written.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) source: &'a Source,
    /// Bytes of the source.
    pub(super) span: Range<usize>,
    /// The dotted path.
    pub(super) key: String,
}

/// `FILE:LINE:COLUMN: KEY`
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.source.position(self.span.start);
        write!(f, "{}:{line}:{column}: {}", self.source.name, self.key)
    }
}

/// Collects what is wrong.
#[derive(Default)]
pub(super) struct Sink {
    problems: RefCell<Vec<Problem>>,
    /// File and line of every syntax error.
    unreadable: RefCell<BTreeSet<(String, usize)>>,
}

impl Sink {
    /// A syntax error. Only the first on a line is worth a person's time, and nothing else is said of that line: what
    /// was understood of it may be anything, also a secret that was taken for a key.
    pub(super) fn syntax_error(&self, source: &Source, span: Range<usize>, message: &str) {
        let key = known_key_of(line_at(source, span.start).0).unwrap_or_default().to_owned();
        let place = Place { source, span, key };
        let problem = Problem { is_cause: true, ..Problem::new(Severity::Error, &place, message.into()) };
        if self.unreadable.borrow_mut().insert((problem.file.clone(), problem.line)) {
            self.problems.borrow_mut().push(problem);
        }
    }

    pub(super) fn error(&self, place: &Place<'_>, complaint: impl Into<Complaint>) {
        self.push(Problem::new(Severity::Error, place, complaint.into()));
    }

    /// An error that others may only follow from: it is shown before them.
    pub(super) fn cause(&self, place: &Place<'_>, complaint: impl Into<Complaint>) {
        self.push(Problem { is_cause: true, ..Problem::new(Severity::Error, place, complaint.into()) });
    }

    pub(super) fn warning(&self, place: &Place<'_>, complaint: impl Into<Complaint>) {
        self.push(Problem::new(Severity::Warning, place, complaint.into()));
    }

    /// An error that is kept back if the file has lines that could not be read, since it may only follow from them:
    /// what is missing may stand there.
    pub(super) fn follow_up(&self, place: &Place<'_>, complaint: impl Into<Complaint>) {
        if self.is_readable(place.source) {
            self.error(place, complaint);
        }
    }

    /// Whether every line of a file could be read.
    pub(super) fn is_readable(&self, source: &Source) -> bool {
        !self.unreadable.borrow().iter().any(|(file, _)| *file == source.name)
    }

    /// Whether there is an error so far.
    pub(super) fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(|problem| problem.severity == Severity::Error)
    }

    fn push(&self, problem: Problem) {
        if !self.unreadable.borrow().contains(&(problem.file.clone(), problem.line)) {
            self.problems.borrow_mut().push(problem);
        }
    }

    /// Takes over what another one has collected, as warnings.
    pub(super) fn adopt_as_warnings(&self, other: Sink) {
        let demoted = other.problems.into_inner().into_iter();
        self.problems.borrow_mut().extend(demoted.map(|problem| Problem { severity: Severity::Warning, ..problem }));
    }

    /// All problems, each once: causes, then what may follow from them; of each, those of the file `first` before the other
    /// files', in the order of the lines.
    pub(super) fn finish(self, first: &str) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| {
            let order = |p: &Problem| (!p.is_cause, p.file != first, p.file.clone(), p.line, p.column);
            order(a).cmp(&order(b))
        });
        problems.dedup();
        problems
    }
}

/// Keys whose lines may be shown, if the value looks as such values do. Not among them: what may hold a secret
/// (`client_secret`, `parameters`, `header`, `proxy`), and what is free text.
const SHOWN: &[&str] = &[
    "account",
    "allow",
    "authorization_endpoint",
    "client",
    "client_auth",
    "clients",
    "cognito_endpoint",
    "connect_timeout",
    "deny",
    "device_authorization_endpoint",
    "device_pkce",
    "drain",
    "early",
    "extra_ca",
    "grant",
    "hosts",
    "http2",
    "idle_timeout",
    "introspection_endpoint",
    "issuer",
    "keep_password",
    "listen",
    "login_page",
    "margin",
    "mcp",
    "minimum_spacing",
    "provider",
    "pushed_authorization_endpoint",
    "redirect",
    "redirect_uri",
    "refuse",
    "registration_endpoint",
    "replay",
    "replay_limit",
    "require_key",
    "revocation_endpoint",
    "sandbox",
    "scopes",
    "scrub",
    "sign_in",
    "strict_exec",
    "token_endpoint",
    "token_query",
    "upstream",
    "userinfo_endpoint",
    "via",
    "wait",
    "warm",
    "workers",
];

/// Keys of which no more than the name is shown.
const NAMED: &[&str] = &[
    "authorize",
    "client_id",
    "client_secret",
    "command",
    "credential",
    "description",
    "header",
    "identity",
    "import",
    "parameters",
    "proxy",
    "request_headers",
    "resource",
    "seal",
    "store",
    "unit",
];

/// What may be shown of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Excerpt {
    text: String,
    /// The characters in question, where they are shown.
    marks: Option<Range<usize>>,
}

impl Excerpt {
    fn of(source: &Source, span: &Range<usize>) -> Option<Self> {
        let (line, start) = line_at(source, span.start);
        // A line inside of a string of many lines may look like anything; after the first such string we do not try.
        let before = &source.text[..start];
        if before.contains("\"\"\"") || before.contains("'''") {
            return None;
        }
        if !is_harmless(line) {
            let key = known_key_of(line)?;
            return Some(Self { text: format!("{key} = [not shown]"), marks: None });
        }
        let from = line.get(..span.start - start)?.chars().count();
        let marked = source.text.get(span.start..span.end.min(start + line.len())).unwrap_or_default();
        Some(Self { text: line.to_owned(), marks: Some(from..from + marked.chars().count().max(1)) })
    }
}

/// The line around a byte, without its end, and where it starts.
fn line_at(source: &Source, offset: usize) -> (&str, usize) {
    let text = source.text.as_str();
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[offset..].find('\n').map_or(text.len(), |newline| offset + newline);
    (text[start..end].trim_end_matches('\r'), start)
}

/// The key that a line sets, if it is one of ours.
fn known_key_of(line: &str) -> Option<&'static str> {
    let key = line.split_once('=')?.0.trim();
    SHOWN.iter().chain(NAMED).find(|known| **known == key).copied()
}

/// Whether a line can be shown: a table's header, or a value of a harmless key that looks as such values do.
fn is_harmless(line: &str) -> bool {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return false; // it could also play tricks on a terminal
    }
    let Some((key, value)) = line.split_once('=') else {
        let trimmed = line.trim();
        let of_a_header = |c: char| c.is_ascii_alphanumeric() || "._-[] ".contains(c);
        return trimmed.starts_with('[') && trimmed.ends_with(']') && trimmed.chars().all(of_a_header);
    };
    if !SHOWN.contains(&key.trim()) {
        return false;
    }
    // outside of quotes: numbers, words, brackets. Inside: nothing that may be a password in a URL, a key in a query,
    // a comment on either, or a token.
    let parts: Vec<&str> = value.split('"').collect();
    let outside =
        parts.iter().step_by(2).all(|part| part.chars().all(|c| c.is_ascii_alphanumeric() || " \t[],._+-".contains(c)));
    let inside = parts.iter().skip(1).step_by(2).all(|part| {
        let lower = part.to_ascii_lowercase();
        !part.contains(['@', '?', '#', '=', '\\'])
            && !["eyj", "secret", "bearer", "key"].iter().any(|word| lower.contains(word))
    });
    parts.len() % 2 == 1 && outside && inside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str, needle: &str) -> Problem {
        let source = Source { name: "config.toml".into(), text: text.into(), readable_by_others: false };
        let start = text.find(needle).unwrap();
        let place = Place { source: &source, span: start..start + needle.len(), key: "the.key".into() };
        Problem::new(Severity::Error, &place, Complaint::new("is wrong", "mend it"))
    }

    #[test]
    fn a_problem_shows_on_one_line_and_with_its_excerpt() {
        let problem = problem("workers = 2\nlisten = [\"ä\", \"nowhere\"]\n", "\"nowhere\"");
        assert_eq!(problem.to_string(), "config.toml:2:16: the.key: is wrong; mend it");
        let expected = "config.toml:2:16: the.key: is wrong; mend it\n  |\n2 | listen = [\"ä\", \"nowhere\"]\n  |                ^^^^^^^^^";
        assert_eq!(problem.rendered(), expected);
    }

    #[test]
    fn no_excerpt_shows_a_line_that_may_hold_a_secret() {
        let rows = [
            ("the secret itself", "client_secret = \"hunter2\""),
            ("an unclosed secret", "client_secret = \"hunter2"),
            ("a misspelt key", "cleint_secret = \"hunter2\""),
            ("a secret alone on its line", "hunter2"),
            ("a secret that ends as base64 does", "hunter2=="),
            ("a password in a URL", "upstream = \"https://me:hunter2@api.example\""),
            ("a key in a query", "upstream = \"https://api.example/?k=hunter2\""),
            ("a literal token in the header", "header = \"Authorization: Bearer hunter2\""),
            ("two pairs on a line", "drain = \"1s\" password = \"hunter2\""),
            ("a parameter", "parameters = { api_key = \"hunter2\" }"),
            ("a comment", "drain = \"1s\" # and hunter2"),
            ("a string of many lines", "client_secret = \"\"\"\nlisten = [hunter2]\n\"\"\""),
            ("a single-quoted string", "upstream = 'https://me:hunter2@x'"),
        ];
        for (name, text) in rows {
            let problem = problem(text, "hunter2");
            assert!(!problem.rendered().contains("hunter2"), "{name}: {}", problem.rendered());
            let mut source = Source { name: "f".into(), text: text.into(), readable_by_others: false };
            source.text.push('\n');
            assert!(!format!("{source:?}").contains("hunter2"), "{name}");
        }
        let shown = problem("client_secret = \"hunter2\"", "hunter2").rendered();
        assert!(shown.ends_with("1 | client_secret = [not shown]"), "{shown}");
    }

    #[test]
    fn bytes_that_are_not_text_are_refused_with_their_place() {
        let error = Source::from_bytes("f.toml", b"workers = 1\nhosts = [\"\xff\"]", false).unwrap_err();
        assert_eq!(error.to_string(), "f.toml:2:11: is not UTF-8 text");
        assert_eq!(Source::from_bytes("f", b"workers = 1", true).unwrap().text, "workers = 1");
    }
}
