//! `valetd man`

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::Command;
use clap_mangen::Man;

use super::failure::{Exit, Failure};
use super::output::print;

/// Print the man pages, or write them into a folder
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  valetd man | man -l -
  valetd man --dir ~/.local/share/man/man1")]
pub(super) struct Arguments {
    /// Write valetd.1, valetd-login.1 and so on into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[expect(clippy::disallowed_methods, reason = "a folder that the person named, with the umask's mode")]
pub(super) fn perform(program: Command, arguments: Arguments) -> Result<Exit, Failure> {
    let pages = pages(program).map_err(|error| Failure::new(error).while_doing("writing the man pages"))?;
    let Some(dir) = arguments.dir else {
        let text: String = pages.into_iter().map(|(_, text)| text).collect();
        print(&text)?;
        return Ok(Exit::Fine);
    };
    let failed = |error: io::Error| Failure::new(error).while_doing(format!("writing man pages to {}", dir.display()));
    fs::create_dir_all(&dir).map_err(failed)?;
    for (name, text) in pages {
        fs::write(dir.join(name), text).map_err(failed)?;
    }
    Ok(Exit::Fine)
}

/// Every page's file name and text: the program's, then the verbs'.
fn pages(mut program: Command) -> io::Result<Vec<(String, String)>> {
    program.build(); // hands the global options and the program's name down
    let mut pages = Vec::new();
    let verbs = program.get_subcommands().flat_map(|verb| std::iter::once(verb).chain(verb.get_subcommands()));
    for page in std::iter::once(&program).chain(verbs) {
        let man = Man::new(page.clone()).source(concat!("valetd ", env!("CARGO_PKG_VERSION")));
        let mut text = Vec::new();
        man.render(&mut text)?;
        pages.push((man.get_filename(), with_lines_kept(&String::from_utf8_lossy(&text))));
    }
    Ok(pages)
}

/// A page whose texts of our own keep their lines: they hold columns and commands, which roff would otherwise fill up to
/// paragraphs. What clap_mangen calls "extra" are notes and examples.
fn with_lines_kept(page: &str) -> String {
    let mut kept = String::new();
    let mut ours = false;
    for line in page.lines() {
        if line.starts_with(".SH ") && ours {
            kept.push_str(".fi\n");
        }
        match line {
            ".SH EXTRA" => kept.push_str(".SH NOTES\n"),
            line => kept.extend([line, "\n"]),
        }
        if line.starts_with(".SH ") {
            ours = matches!(line, ".SH DESCRIPTION" | ".SH EXTRA");
            kept.push_str(if ours { ".nf\n" } else { "" });
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    #[test]
    fn every_verb_has_a_page_of_its_own_name() {
        let pages = pages(command()).unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[..3], ["valetd.1", "valetd-run.1", "valetd-login.1"]);
        assert!(
            names.contains(&"valetd-wait.1")
                && names.contains(&"valetd-service-install.1")
                && names.iter().all(|name| !name.contains("help") || *name == "valetd-help.1"),
            "{names:?}"
        );
        for (name, text) in &pages {
            let title = name.trim_end_matches(".1");
            assert!(text.contains(&format!(".TH {title} 1")), "{name}:\n{text}");
        }
        let program = &pages[0].1;
        assert!(program.contains(".SH DESCRIPTION\n.nf\n") && program.contains(".fi\n.SH OPTIONS\n"), "{program}");
        let login = &pages.iter().find(|(name, _)| name == "valetd-login.1").unwrap().1;
        assert!(login.contains("valetd login") && login.contains("state\\-dir"), "{login}");
    }
}
