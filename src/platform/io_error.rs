//! The system's errors, as people are told of them.

use std::io;

/// What went wrong, without "(os error 111)" where there are words for it.
pub(crate) fn words(error: &io::Error) -> String {
    let kind = error.kind().to_string();
    if error.raw_os_error().is_some() && kind != "uncategorized error" { kind } else { error.to_string() }
}
