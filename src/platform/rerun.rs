//! For tests of what belongs to a whole process (its environment, its limits, its inherited descriptors): runs one
//! test again in a process of its own.
//!
//! ```text
//! let Some(parent) = rerun::parent("platform::harden::tests::name_of_this_test") else {
//!     // here is the child, with all that the parent has prepared
//! };
//! parent.passes(parent.command().env("XDG_STATE_HOME", "/somewhere"));
//! ```

use std::process::Command;

/// Set in the child alone, to the name of the test that it is to run.
const CHILD: &str = "VALETD_TEST_CHILD";

/// The first of the two processes that run a test.
pub(crate) struct Parent {
    test: &'static str,
}

/// The parent's side of `test` (its full path in this crate); `None` in the child.
pub(crate) fn parent(test: &'static str) -> Option<Parent> {
    (std::env::var(CHILD).as_deref() != Ok(test)).then_some(Parent { test })
}

impl Parent {
    /// The child, ready to be given an environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("a test has an executable"));
        command.args(["--exact", self.test, "--nocapture", "--test-threads=1"]).env(CHILD, self.test);
        command
    }

    /// Runs the child to its end, and hands on what it said if the test failed there.
    pub(crate) fn passes(&self, child: &mut Command) {
        let output = child.output().expect("the child starts");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{} in its child: {}\n{said}", self.test, output.status);
        assert!(said.contains("1 passed"), "no test is named {}:\n{said}", self.test);
    }
}
