//! Rust source as trees of tokens: words, strings, brackets with what is in them, and single characters. Comments are gone.

use std::iter::Peekable;
use std::str::Chars;

/// One token, or a pair of brackets with what is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Token {
    /// A name or a keyword; a raw one without its `r#`.
    Word(String),
    /// What is between the quotes, as it is written.
    Text(String),
    /// Any other character, also in place of a number.
    Sign(char),
    /// The opening bracket, and what follows it.
    Group(char, Vec<Token>),
}

/// The tokens of a text.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut rest = text.chars().peekable();
    let mut found = Vec::new();
    while rest.peek().is_some() {
        found.extend(until_closed(&mut rest));
    }
    found
}

fn until_closed(rest: &mut Peekable<Chars<'_>>) -> Vec<Token> {
    let mut found = Vec::new();
    while let Some(first) = rest.next() {
        match first {
            ')' | ']' | '}' => break,
            '(' | '[' | '{' => found.push(Token::Group(first, until_closed(rest))),
            '/' if rest.peek() == Some(&'/') => drop(rest.by_ref().find(|c| *c == '\n')),
            '/' if rest.peek() == Some(&'*') => comment(rest),
            '"' => found.push(Token::Text(quoted(rest, '"'))),
            '\'' => lifetime_or_character(rest),
            first if first.is_ascii_digit() => {
                while rest.peek().is_some_and(|c| c.is_alphanumeric() || *c == '_') {
                    rest.next();
                }
                found.push(Token::Sign('0'));
            }
            first if first.is_alphabetic() || first == '_' => found.extend(word(first, rest)),
            first if first.is_whitespace() => {}
            first => found.push(Token::Sign(first)),
        }
    }
    found
}

/// A block comment; they stand in each other.
fn comment(rest: &mut Peekable<Chars<'_>>) {
    rest.next();
    let (mut depth, mut last) = (1, ' ');
    for c in rest.by_ref() {
        match (last, c) {
            ('*', '/') => depth -= 1,
            ('/', '*') => depth += 1,
            _ => {
                last = c;
                continue;
            }
        }
        last = ' ';
        if depth == 0 {
            return;
        }
    }
}

fn quoted(rest: &mut Peekable<Chars<'_>>, end: char) -> String {
    let mut text = String::new();
    while let Some(c) = rest.next() {
        if c == end {
            break;
        }
        text.push(c);
        if c == '\\' {
            text.extend(rest.next());
        }
    }
    text
}

/// Behind a single quote.
fn lifetime_or_character(rest: &mut Peekable<Chars<'_>>) {
    let mut ahead = rest.clone();
    let (first, second) = (ahead.next(), ahead.next());
    if first == Some('\\') || second == Some('\'') {
        quoted(rest, '\'');
    } else {
        while rest.peek().is_some_and(|c| c.is_alphanumeric() || *c == '_') {
            rest.next();
        }
    }
}

/// A word, or a literal that begins with letters: `br#"…"#`, `c"…"`, `b'x'`.
fn word(first: char, rest: &mut Peekable<Chars<'_>>) -> Option<Token> {
    let mut word = String::from(first);
    while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
        word.push(c);
    }
    let is_prefix = ["r", "b", "br", "c", "cr"].contains(&word.as_str());
    match rest.peek() {
        Some('"') if is_prefix && word.ends_with('r') => Some(Token::Text(raw(rest, 0))),
        Some('"') if is_prefix => {
            rest.next();
            Some(Token::Text(quoted(rest, '"')))
        }
        Some('\'') if word == "b" => {
            rest.next();
            quoted(rest, '\'');
            None
        }
        Some('#') if is_prefix && word.ends_with('r') => {
            let mut ahead = rest.clone();
            let mut fences = 0;
            while ahead.next_if_eq(&'#').is_some() {
                fences += 1;
            }
            if ahead.peek() == Some(&'"') {
                *rest = ahead;
                return Some(Token::Text(raw(rest, fences)));
            }
            rest.next();
            None // the word follows
        }
        _ => Some(Token::Word(word)),
    }
}

/// A raw string, from its first quote on.
fn raw(rest: &mut Peekable<Chars<'_>>, fences: usize) -> String {
    rest.next();
    let end = format!("\"{}", "#".repeat(fences));
    let mut text = String::new();
    for c in rest.by_ref() {
        text.push(c);
        if text.ends_with(&end) {
            text.truncate(text.len() - end.len());
            break;
        }
    }
    text
}
