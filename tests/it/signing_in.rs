//! Signing in at a terminal, and what is said of the places where other tools keep their tokens.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use valetd::stand_in::{Options, PASSWORD, Provider, USERNAME};

use crate::support::lab::Server;
use crate::support::{Home, eventually, mode, words};

/// `valetd` with a terminal of its own, and who sits at it. script(1) makes the terminal.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<String>>,
    /// How much of it has been waited for.
    read: usize,
}

impl Terminal {
    fn open(home: &Home, arguments: &str) -> Self {
        let plain = home.valetd(&[]);
        let line = format!("'{}' {arguments}", plain.get_program().to_str().expect("a path in UTF-8"));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script runs");
        let (keys, mut screen) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let shown = Arc::new(Mutex::new(String::new()));
        let paper = shown.clone();
        thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut part) {
                paper.lock().expect("a screen").push_str(&String::from_utf8_lossy(&part[..read]));
            }
        });
        Self { child, keys, shown, read: 0 }
    }

    /// Waits until a text is shown after the last that was waited for; returns what came before it.
    fn until(&mut self, text: &str) -> String {
        let what = format!("the terminal shows {text:?}");
        let (before, end) = eventually(&what, || {
            let shown = self.shown.lock().expect("a screen");
            let at = shown[self.read..].find(text)?;
            Some((shown[self.read..][..at].to_owned(), self.read + at + text.len()))
        });
        self.read = end;
        before
    }

    fn answer(&mut self, question: &str, line: &str) -> String {
        let before = self.until(question);
        self.keys.write_all(format!("{line}\r").as_bytes()).expect("typed");
        before
    }

    fn exit(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

/// The account `lab` of a server, with these ways to sign in.
fn config(server: &Server, ways: &str) -> String {
    format!(
        "listen = []\n[account.lab]\ntoken_endpoint = \"{}\"\nclient_id = \"lab\"\nupstream = \"{}\"\nsign_in = {ways}\n\
         login_page = \"https://lab.example/login\"\nredirect_uri = \"https://lab.example/code\"\n",
        server.token_endpoint(),
        server.url(),
    )
}

/// What was asked of the token endpoint, and what came of it.
fn asked(server: &Server) -> Vec<String> {
    server.log().token_calls.iter().map(|call| format!("{} {}", call.grant, call.outcome)).collect()
}

#[test]
fn every_way_of_an_account_is_offered_in_its_order_and_the_next_where_one_does_not_work() {
    // a server that takes passwords only, behind an account that names the code first
    let server = Server::start(Provider::Gbdx, Options::default());
    let home = Home::with(&config(&server, "[\"paste\", \"password\"]"));
    let mut terminal = Terminal::open(&home, "login lab");
    let menu = terminal.answer("Which one? [1] ", "");
    let (code, password) = (menu.find("1  a one-time code"), menu.find("2  user name and password"));
    assert!(code.is_some() && code < password, "{menu}");
    terminal.answer("Code: ", "4f9f0d8c-8a54-4a8f-9d0b-0f8fad5bd9cb");
    terminal.until("That did not work: ");
    terminal.answer("Which one? [2] ", "");
    terminal.answer("User name for lab: ", USERNAME);
    terminal.answer(&format!("Password of {USERNAME}: "), PASSWORD);
    terminal.until("lab: signed in");
    assert_eq!(terminal.exit(), Some(0));
    assert_eq!(asked(&server), ["authorization_code refused", "password issued"]);
    assert!(home.path("state/valetd/lab.json").exists());

    // and one that takes codes only, behind an account that names the password first
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::with(&config(&server, "[\"password\", \"paste\"]"));
    let mut terminal = Terminal::open(&home, "login lab --no-browser");
    terminal.answer("Which one? [1] ", "");
    terminal.answer("User name for lab: ", USERNAME);
    terminal.answer(&format!("Password of {USERNAME}: "), PASSWORD);
    terminal.until("That did not work: ");
    terminal.answer("Which one? [2] ", "");
    terminal.answer("Code: ", &server.mint_code());
    terminal.until("lab: signed in");
    assert_eq!(terminal.exit(), Some(0));
}

#[test]
fn one_way_of_several_can_be_chosen_by_number_by_name_and_by_option() {
    let server = Server::start(Provider::Gbdx, Options::default());
    let home = Home::with(&config(&server, "[\"paste\", \"password\"]"));
    for (choice, name) in [("2", USERNAME), ("password", USERNAME)] {
        let mut terminal = Terminal::open(&home, "login lab");
        terminal.answer("Which one? [1] ", "no such way");
        terminal.until("Answer with a number from 1 to 2.");
        terminal.answer("Which one? [1] ", choice);
        terminal.answer("User name for lab: ", name);
        terminal.answer(&format!("Password of {name}: "), PASSWORD);
        terminal.until("lab: signed in");
        assert_eq!(terminal.exit(), Some(0), "{choice}");
    }
    // a user name is for the password: no menu, and no question for the name
    let mut terminal = Terminal::open(&home, &format!("login lab --username {USERNAME}"));
    let before = terminal.answer(&format!("Password of {USERNAME}: "), PASSWORD);
    assert!(!before.contains("Which one?"), "{before}");
    terminal.until("lab: signed in");
    assert_eq!(terminal.exit(), Some(0));
    assert_eq!(asked(&server), ["password issued"; 3]);

    // Ctrl-C at the menu leaves it, as at any question
    let mut terminal = Terminal::open(&home, "login lab");
    terminal.answer("Which one? [1] ", "\x03");
    assert_eq!(terminal.exit(), Some(130));

    // where the account asks for no user name, one is not quietly forgotten
    home.write_config(&config(&server, "[\"paste\"]"));
    let refused = home.run(&["login", "lab", "--username", USERNAME]);
    assert!(!refused.status.success() && words(&refused).contains("asks for a user name"), "{}", words(&refused));
}

#[test]
fn an_account_with_one_way_asks_for_it_without_a_menu() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::with(&config(&server, "[\"paste\"]"));
    let mut terminal = Terminal::open(&home, "login lab --no-browser");
    let before = terminal.answer("Code: ", &server.mint_code());
    assert!(before.contains("https://lab.example/login") && !before.contains("Which one?"), "{before}");
    terminal.until("lab: signed in");
    assert_eq!(terminal.exit(), Some(0));
}

#[test]
fn what_import_advises_about_a_file_can_be_run_as_it_is_printed() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::empty();
    let absolute = home.path("left/token.json").display().to_string();
    let rows = [
        ("json_file", "~/.gdh/authentication", ".gdh/authentication"),
        ("json_file", "~/my lab/it's.json", "my lab/it's.json"),
        ("json_file", "~//twice.json", "twice.json"),
        ("json_file", "left.json", "config/valetd/left.json"),
        ("json_file", absolute.as_str(), "left/token.json"),
        ("gbdx_config", "~/.gbdx-config", ".gbdx-config"),
    ];
    for (kind, written, place) in rows {
        let place = home.path(place);
        let token = server.sign_in();
        let json = format!("{{\"refresh_token\": \"{}\"}}", token.expose());
        let text = if kind == "json_file" { json } else { format!("[gbdx_token]\njson = {json}\n") };
        fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
        fs::write(&place, text).expect("written");
        fs::set_permissions(&place, Permissions::from_mode(0o644)).expect("open to others");
        let import = format!("import = [{{ {kind} = \"{written}\" }}]\n");
        home.write_config(&(config(&server, "[]") + &import));
        let output = home.run(&["login", "lab", "--import"]);
        let said = words(&output);
        assert!(output.status.success(), "{written}: {said}");
        let place_shown = place.display().to_string();
        assert!(said.contains(&format!("{place_shown} is readable by others")), "{written}: {said}");
        assert!(said.contains(&format!("taken over from {place_shown}\n")), "{written}: {said}");
        let remedy = said.split('`').nth(1).expect("a remedy in backquotes");
        let mut shell = Command::new("sh");
        shell.args(["-c", remedy]).env("HOME", home.path(""));
        assert!(shell.status().expect("a shell").success(), "{written}: {remedy}");
        assert_eq!(mode(&place), 0o600, "{written}: {remedy}");
        assert!(!words(&home.run(&["login", "lab", "--import"])).contains("readable by others"), "{written}");
    }
}
