//! The program: one call to [`valetd::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    valetd::cli::main()
}
