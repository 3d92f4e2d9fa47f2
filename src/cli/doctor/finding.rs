//! What was found, and how it is shown.

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::super::text::{printable, styled, wrapped};

/// How it stands with one thing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) level: Level,
    pub(super) says: String,
    pub(super) remedy: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Report<'a> {
    pub(super) schema: u32,
    pub(super) ok: bool,
    pub(super) findings: &'a [Finding],
}

pub(super) fn ok(check: &'static str, says: impl Into<String>) -> Finding {
    Finding { check, level: Level::Ok, says: says.into(), remedy: None }
}

pub(super) fn warn(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { check, level: Level::Warn, says: says.into(), remedy: Some(remedy.into()) }
}

pub(super) fn fail(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { check, level: Level::Fail, says: says.into(), remedy: Some(remedy.into()) }
}

/// A line for each finding, and one below for its remedy.
pub(super) fn render(findings: &[Finding]) -> String {
    const GOOD: Style = AnsiColor::Green.on_default();
    const SOON: Style = AnsiColor::Yellow.on_default();
    const BAD: Style = AnsiColor::Red.on_default().bold();
    const INDENT: usize = 20;
    let mut out = String::new();
    for Finding { check, level, says, remedy } in findings {
        let (word, style) = match level {
            Level::Ok => ("ok  ", GOOD),
            Level::Warn => ("warn", SOON),
            Level::Fail => ("FAIL", BAD),
        };
        let text = wrapped(&printable(says), INDENT);
        out.push_str(&format!("{}  {check:<12}  {}", styled(word, style), text.trim_start()));
        if let Some(remedy) = remedy {
            out.push_str(&wrapped(&format!("-> {}", printable(remedy)), INDENT));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    out.push_str(&match (count(Level::Fail), count(Level::Warn)) {
        (0, 0) => "\nAll is well.\n".to_owned(),
        (0, warnings) => format!("\nNothing fails; {warnings} to look at.\n"),
        (failures, warnings) => format!("\n{failures} to mend, {warnings} to look at.\n"),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_lines_with_their_remedies_below() {
        let findings = [
            ok("config", "fine"),
            fail("token server", format!("https://auth.example: {}", "word ".repeat(20)), "do this"),
        ];
        let text = anstream::adapter::strip_str(&render(&findings)).to_string();
        assert!(text.starts_with("ok    config        fine\nFAIL  token server  https://auth.example: word"), "{text}");
        assert!(text.contains("\n                    -> do this\n"), "{text}");
        assert!(text.ends_with("\n1 to mend, 0 to look at.\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
