//! A person at a terminal.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::support::{Home, eventually};

/// A command with a terminal of its own, and who sits at it. script(1) makes the terminal.
pub struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<String>>,
    /// How much of it has been waited for.
    read: usize,
    reader: JoinHandle<()>,
}

impl Terminal {
    /// Runs a line of the shell, which finds what is in `bin` of the home, too.
    pub fn open(home: &Home, line: &str) -> Self {
        // a run of the tests in the background of a shell has them ignored, and no shell of a story could trap them then
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,QUIT", "script"]);
        command.args(["--quiet", "--return", "--flush", "--command", line, "/dev/null"]);
        home.settle(&mut command);
        command.env("PATH", home.bin());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("script, of util-linux, is installed");
        let (keys, mut screen) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let shown = Arc::new(Mutex::new(String::new()));
        let paper = shown.clone();
        let reader = thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut part) {
                paper.lock().expect("a screen").push_str(&String::from_utf8_lossy(&part[..read]));
            }
        });
        Self { child, keys, shown, read: 0, reader }
    }

    /// Waits until a text is shown after the last that was waited for; returns what came before it.
    pub fn until(&mut self, text: &str) -> String {
        let what = format!("the terminal shows {text:?}");
        let (before, end) = eventually(&what, || {
            let shown = self.shown.lock().expect("a screen");
            let at = shown[self.read..].find(text)?;
            Some((shown[self.read..][..at].to_owned(), self.read + at + text.len()))
        });
        self.read = end;
        before
    }

    /// All that was shown so far.
    pub fn shown(&self) -> String {
        self.shown.lock().expect("a screen").clone()
    }

    pub fn answer(&mut self, question: &str, line: &str) -> String {
        let before = self.until(question);
        self.type_line(line);
        before
    }

    pub fn type_line(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\r").as_bytes()).expect("typed");
    }

    pub fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).expect("pressed");
    }

    /// The terminal goes away, as when its window is closed or a connection ends.
    pub fn hang_up(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("waited for");
        self.reader.join().expect("no panic");
    }

    /// Waits for its end. Returns its exit code, and all that was shown.
    pub fn exit(mut self) -> (Option<i32>, String) {
        let status = eventually("it ends", || self.child.try_wait().expect("asked"));
        self.reader.join().expect("no panic");
        let shown = self.shown.lock().expect("a screen").clone();
        (status.code(), shown)
    }
}
