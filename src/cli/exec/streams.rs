//! What an isolated command is handed as standard input, output and error, each of which leads outside: it can do with them
//! what they were opened for, and nothing else.
//!
//! A file that was opened for reading could be opened again by `/proc/self/fd/0`, for writing: no mount is in between. What
//! keeps a command from that is Landlock (landlock(7)): of all files, those of its own tree may be opened, and of those outside
//! the three, as they are.

use std::os::fd::{AsFd, BorrowedFd};

use landlock::{
    AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreated,
    RulesetCreatedAttr as _, RulesetError,
};
use rustix::fs::{FileType, OFlags};

use crate::cli::failure::{Exit, Failure};

/// The three, each with its name.
fn each<T>(look: impl Fn(&'static str, BorrowedFd<'_>) -> T) -> [T; 3] {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    [look("input", input.as_fd()), look("output", output.as_fd()), look("error", error.as_fd())]
}

fn kind(stream: BorrowedFd<'_>) -> Option<FileType> {
    rustix::fs::fstat(stream).ok().map(|found| FileType::from_raw_mode(found.st_mode))
}

/// Keeps a folder from being handed in as one of the three: by it, a command would get to all of its file system. And a file,
/// where the kernel cannot keep it from being opened again.
///
/// # Errors
///
/// If one of the three is a folder, or a file that could be opened again.
pub(super) fn refuse_ways_out() -> Result<(), Failure> {
    let can_be_held = ruleset().is_ok();
    let judge = |name: &str, stream: BorrowedFd<'_>| match kind(stream) {
        Some(FileType::Directory) => {
            Err(Failure::say(format!("standard {name} is a folder, by which a command gets past the wall"))
                .with_remedy("redirect it elsewhere, as to /dev/null")
                .with_exit(Exit::Usage))
        }
        Some(FileType::RegularFile) if !can_be_held => {
            let says = format!("standard {name} is a file that the command could open again, to read and to change it");
            let remedy = "this kernel has no Landlock that could keep it from that (it is there from Linux 6.2 on, if not \
                          switched off): pipe it, as in: cat FILE | this command | cat > OTHER";
            Err(Failure::say(says).with_remedy(remedy).with_exit(Exit::Usage))
        }
        Some(_) | None => Ok(()),
    };
    each(judge).into_iter().collect()
}

/// Holds this process, and all that it starts from here on, to its own tree, and to the three as they were opened.
///
/// # Errors
///
/// If the kernel knows how, and does not. One that knows none of it has nothing to hold: [`refuse_ways_out`].
pub(super) fn hold() -> Result<(), Failure> {
    let failed = |error: RulesetError| Failure::new(error).while_doing("holding the command to what it was given");
    let Ok(ruleset) = ruleset() else { return Ok(()) };
    let root = PathFd::new("/").map_err(|error| Failure::new(error).while_doing("opening the command's root"))?;
    let mut ruleset = ruleset.add_rule(PathBeneath::new(root, handled())).map_err(failed)?;
    for rights in each(|_, stream| granted(stream)) {
        let Some((stream, access)) = rights else { continue };
        ruleset = ruleset.add_rule(PathBeneath::new(stream, access)).map_err(failed)?;
    }
    ruleset.restrict_self().map_err(failed).map(drop)
}

/// What is denied but where a rule says otherwise. Renames between folders are among it in any case.
fn handled() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::Refer
}

/// # Errors
///
/// If the kernel does not know all of it.
fn ruleset() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(handled())?.create()
}

/// What may be done with a stream when it is opened again, where that is something of a file system.
fn granted(stream: BorrowedFd<'_>) -> Option<(std::os::fd::OwnedFd, BitFlags<AccessFs>)> {
    let flags = rustix::fs::fcntl_getfl(stream).ok()?;
    let mode = flags & OFlags::RWMODE;
    let mut access = BitFlags::<AccessFs>::empty();
    if mode != OFlags::WRONLY {
        access |= AccessFs::ReadFile;
    }
    if mode != OFlags::RDONLY {
        access |= AccessFs::WriteFile | AccessFs::Truncate;
    }
    let stream = stream.try_clone_to_owned().ok()?;
    // no rule is needed for pipes, sockets and files in memory, and none can be made
    let takes_a_rule = |stream: BorrowedFd<'_>| {
        ruleset().is_ok_and(|ruleset| ruleset.add_rule(PathBeneath::new(stream, access)).is_ok())
    };
    takes_a_rule(stream.as_fd()).then_some((stream, access))
}
