//! What every verb understands.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::platform::log::checked_filter;
use crate::platform::paths::{Overrides, shell_word};

/// What every verb understands.
#[derive(Args, Clone, Default, Debug)]
pub(super) struct Options {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(super) config: Option<PathBuf>,
    /// Where credentials are kept
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub(super) state_dir: Option<PathBuf>,
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global options")]
    pub(super) socket: Option<PathBuf>,
    /// What the daemon logs: error, warn, info, debug, trace, or by module
    #[arg(long, global = true, value_name = "FILTER", value_parser = checked_filter, help_heading = "Global options")]
    pub(super) log: Option<String>,
    /// What a line of the daemon's log looks like
    #[arg(long, global = true, value_name = "FORMAT", value_enum, help_heading = "Global options")]
    pub(super) log_format: Option<LogFormat>,
}

/// What a line of the log looks like.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LogFormat {
    /// For people, and for the journal.
    Text,
    /// One JSON object a line.
    Json,
}

impl Options {
    /// What they say of places.
    pub(super) fn overrides(&self) -> Overrides {
        let Options { config, state_dir, socket, log: _, log_format: _ } = self.clone();
        Overrides { config, state_dir, socket }
    }

    /// How a person calls the program so that it finds the same places: `valetd` and the options that name them.
    pub(super) fn invocation(&self) -> String {
        let Options { config, state_dir, socket, log: _, log_format: _ } = self;
        let mut words = "valetd".to_owned();
        for (option, path) in [("--config", config), ("--state-dir", state_dir), ("--socket", socket)] {
            if let Some(path) = path {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                words.push_str(&format!(" {option} {}", shell_word(&path)));
            }
        }
        words
    }
}
