//! `valetd completions`

use clap_complete::Shell;

use super::{Exit, Failure, command, print};

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

pub(super) fn perform(arguments: Arguments) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "valetd", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Fine)
}
