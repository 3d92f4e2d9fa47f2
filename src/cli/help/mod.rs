//! `valetd help`: what belongs to no single verb, as texts (`topics/`); a verb's own help is clap's.

use clap::Command;

use super::failure::{Exit, Failure};
use super::output::print;
use super::text::{Cell, Table};
use crate::names::UnknownName;

mod texts;

pub(super) use texts::{ABOUT, AFTER};

/// Explain a topic, or show the help of a verb
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  valetd help                     which topics there are
  valetd help backup
  valetd help key add             the same as valetd key add --help

Exit codes: 0 shown, 2 there is no such topic or verb.")]
pub(super) struct Arguments {
    /// A topic, or a verb and its own verb
    words: Vec<String>,
}

/// One text that teaches. At most 80 columns.
struct Topic {
    name: &'static str,
    /// What it is about, in a line.
    about: &'static str,
    text: &'static str,
}

const TOPICS: [Topic; 8] = [
    Topic { name: "config", about: "what the configuration says", text: include_str!("topics/config.txt") },
    Topic { name: "providers", about: "which there are, and your own", text: include_str!("topics/providers.txt") },
    Topic { name: "sign-in", about: "the ways to sign in and out", text: include_str!("topics/sign-in.txt") },
    Topic { name: "agents", about: "what an agent may call; hand it over", text: include_str!("topics/agents.txt") },
    Topic { name: "service", about: "run, upgrade, logs, uninstall", text: include_str!("topics/service.txt") },
    Topic { name: "backup", about: "what to keep, and what not", text: include_str!("topics/backup.txt") },
    Topic {
        name: "sealing",
        about: "credentials on the disk, and who can read them",
        text: include_str!("topics/sealing.txt"),
    },
    Topic { name: "exit-codes", about: "how verbs and requests fail", text: include_str!("topics/exit-codes.txt") },
];

pub(super) fn perform(mut program: Command, arguments: Arguments) -> Result<Exit, Failure> {
    program.build(); // hands the global options and the program's name down
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    let text = match words[..] {
        [] => contents(),
        [name, ..] => match TOPICS.iter().find(|topic| words.len() == 1 && topic.name == name) {
            Some(topic) => topic.text.to_owned(),
            None => verb(&program, &words)?.render_long_help().ansi().to_string(),
        },
    };
    print(&text)?;
    Ok(Exit::Fine)
}

/// The list of topics.
fn contents() -> String {
    let mut table = Table::default();
    for Topic { name, about, text: _ } in &TOPICS {
        table.row([Cell::new(format!("  valetd help {name}")), Cell::new(*about)]);
    }
    let topics = table.lines().join("\n");
    format!("Topics:\n\n{topics}\n\nVerbs: 'valetd help VERB', as in 'valetd help login'. All of them: valetd -h\n")
}

/// The verb that the words lead to.
///
/// # Errors
///
/// For the first word that leads nowhere: what was probably meant, and what there is.
fn verb(program: &Command, words: &[&str]) -> Result<Command, Failure> {
    let mut found = program;
    for (depth, word) in words.iter().enumerate() {
        let verbs = || found.get_subcommands().filter(|verb| !verb.is_hide_set());
        let Some(next) = verbs().find(|verb| verb.get_name() == *word) else {
            let topics = TOPICS.iter().map(|topic| topic.name).filter(|_| depth == 0);
            let known = topics.chain(verbs().map(Command::get_name));
            let what = if depth == 0 { "topic or verb" } else { "verb" };
            let failure = Failure::unknown(&UnknownName::new(what, word, known)).with_exit(Exit::Usage);
            return Err(if depth == 0 {
                failure.with_remedy("the topics: valetd help; the verbs: valetd -h")
            } else {
                failure
            });
        };
        found = next;
    }
    Ok(found.clone())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Program, command};

    #[test]
    fn no_topic_is_wider_than_80_columns_and_its_commands_make_sense() {
        for topic in &TOPICS {
            let text = topic.text;
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{}:\n{text}", topic.name);
            for line in text.replace("\\\n", " ").lines() {
                let Some(command) = line.trim_start().strip_prefix("valetd ").filter(|_| line.starts_with("  ")) else {
                    continue;
                };
                // what stands in the next column explains
                let command = command.trim_end().split("   ").next().unwrap_or_default();
                let words = command.split_whitespace().take_while(|word| *word != "<").map(|word| match word {
                    "NAME" | "ME" => "gbdx",
                    word => word.trim_matches('\''),
                });
                let parsed = Program::try_parse_from(["valetd"].into_iter().chain(words));
                assert!(parsed.is_ok(), "{}: {line}: {}", topic.name, parsed.err().unwrap());
            }
        }
    }

    #[test]
    fn the_page_for_agents_names_refusals_that_there_are() {
        let made = [
            include_str!("../../proxy/policy/error.rs"),
            include_str!("../../intercept/mod.rs"),
            include_str!("../../intercept/placeholder.rs"),
        ]
        .concat();
        let page = include_str!("topics/agents.txt");
        let rows = page.split_once("says what to do:").unwrap().1.split_once("What to say").unwrap().0;
        let rows = rows.lines().filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
        let kinds: Vec<&str> = rows.filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(kinds.len(), 9);
        for kind in kinds {
            let written = format!("\"{}", kind.trim_end_matches("..."));
            assert!(made.contains(&written), "{kind}");
        }
    }

    #[test]
    fn every_exit_code_is_told_in_the_topic_and_in_the_help() {
        let topic = include_str!("topics/exit-codes.txt");
        let usual = [Exit::Fine, Exit::Failed, Exit::Usage, Exit::SignInRequired, Exit::NotUsable, Exit::Locked];
        for exit in usual.into_iter().chain([Exit::NotConfigured]) {
            let line = format!("  {}  ", exit as u8);
            assert!(topic.contains(&line) && AFTER.contains(&line), "{exit:?}");
        }
        for exit in [Exit::NotExecutable, Exit::NoSuchCommand, Exit::Interrupted] {
            assert!(topic.contains(&format!("  {}  ", exit as u8)), "{exit:?}");
        }
    }

    #[test]
    fn the_words_lead_to_a_verb_or_say_what_was_probably_meant() {
        let mut program = command();
        program.build();
        assert_eq!(verb(&program, &["key", "add"]).unwrap().get_name(), "add");
        for (words, expected) in [
            (&["logn"][..], "(did you mean \"login\"?)"),
            (&["confg"], "(did you mean \"config\"?)"),
            (&["key", "ad"], "(did you mean \"add\"?)"),
            (&["exec-relay"], "no topic or verb is named"),
        ] {
            let failure = verb(&program, words).unwrap_err();
            assert!(failure.exit == Exit::Usage && failure.to_string().contains(expected), "{failure}");
        }
    }
}
