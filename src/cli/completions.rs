//! `valetd completions`

use clap::Command;
use clap_complete::Shell;

use super::failure::{Exit, Failure};
use super::output::print;

/// Print a shell's completion script
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  valetd completions bash > ~/.local/share/bash-completion/completions/valetd
  valetd completions fish > ~/.config/fish/completions/valetd.fish
  valetd completions zsh > ~/.zfunc/_valetd")]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(super) fn perform(program: &mut Command, arguments: Arguments) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, program, "valetd", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Fine)
}
