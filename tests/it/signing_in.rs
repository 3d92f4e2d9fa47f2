//! Signing in at a terminal, and what is said of the places where other tools keep their tokens.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use valetd::stand_in::{Behaviour, Options, PASSWORD, Provider, USERNAME};

use crate::support::lab::Server;
use crate::support::terminal::Terminal;
use crate::support::{Home, VALETD, mode, words};

/// The account `lab` of a server, with these ways to sign in.
fn config(server: &Server, ways: &str) -> String {
    format!(
        "listen = []\n[account.lab]\ntoken_endpoint = \"{}\"\nclient_id = \"lab\"\nupstream = \"{}\"\nsign_in = {ways}\n\
         login_page = \"https://lab.example/login\"\nredirect_uri = \"https://lab.example/code\"\n",
        server.token_endpoint(),
        server.url(),
    )
}

/// The command that signs in to it.
fn login(options: &str) -> String {
    format!("'{VALETD}' login lab{options}")
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
    let mut terminal = Terminal::open(&home, &login(""));
    let menu = terminal.answer("Which one? [1] ", "");
    let (code, password) = (menu.find("1  a one-time code"), menu.find("2  user name and password"));
    assert!(code.is_some() && code < password, "{menu}");
    terminal.answer("Code: ", "4f9f0d8c-8a54-4a8f-9d0b-0f8fad5bd9cb");
    terminal.until("That did not work: ");
    terminal.answer("Which one? [2] ", "");
    terminal.answer("User name for lab: ", USERNAME);
    terminal.answer(&format!("Password of {USERNAME}: "), PASSWORD);
    terminal.until("lab: signed in");
    assert_eq!(terminal.exit().0, Some(0));
    assert_eq!(asked(&server), ["authorization_code refused", "password issued"]);
    assert!(home.path("state/valetd/lab.json").exists());

    // and one that takes codes only, behind an account that names the password first
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::with(&config(&server, "[\"password\", \"paste\"]"));
    let mut terminal = Terminal::open(&home, &login(" --no-browser"));
    terminal.answer("Which one? [1] ", "");
    terminal.answer("User name for lab: ", USERNAME);
    terminal.answer(&format!("Password of {USERNAME}: "), PASSWORD);
    terminal.until("This way is closed: ");
    terminal.until("unsupported_grant_type");
    terminal.answer("Code: ", &server.mint_code());
    terminal.until("lab: signed in");
    assert_eq!(terminal.exit().0, Some(0));
}

#[test]
fn one_way_of_several_can_be_chosen_by_number_by_name_and_by_option() {
    let server = Server::start(Provider::Gbdx, Options::default());
    let home = Home::with(&config(&server, "[\"paste\", \"password\"]"));
    for (choice, name) in [("2", USERNAME), ("password", USERNAME)] {
        let mut terminal = Terminal::open(&home, &login(""));
        terminal.answer("Which one? [1] ", "no such way");
        terminal.until("Answer with a number from 1 to 2.");
        terminal.answer("Which one? [1] ", choice);
        terminal.answer("User name for lab: ", name);
        terminal.answer(&format!("Password of {name}: "), PASSWORD);
        terminal.until("lab: signed in");
        assert_eq!(terminal.exit().0, Some(0), "{choice}");
    }
    // a user name is for the password: no menu, and no question for the name
    let mut terminal = Terminal::open(&home, &login(&format!(" --username {USERNAME}")));
    let before = terminal.answer(&format!("Password of {USERNAME}: "), PASSWORD);
    assert!(!before.contains("Which one?"), "{before}");
    terminal.until("lab: signed in");
    assert_eq!(terminal.exit().0, Some(0));
    assert_eq!(asked(&server), ["password issued"; 3]);

    // Ctrl-C at the menu leaves it, as at any question
    let mut terminal = Terminal::open(&home, &login(""));
    terminal.answer("Which one? [1] ", "\x03");
    assert_eq!(terminal.exit().0, Some(130));

    // where the account asks for no user name, one is not quietly forgotten
    home.write_config(&config(&server, "[\"paste\"]"));
    let refused = home.run(&["login", "lab", "--username", USERNAME]);
    assert!(!refused.status.success() && words(&refused).contains("asks for a user name"), "{}", words(&refused));
}

#[test]
fn a_password_that_is_not_taken_and_a_server_that_cannot_answer_have_each_their_own_remedy() {
    let server = Server::start(Provider::Gbdx, Options::default());
    let home = Home::with(&config(&server, "[\"password\"]"));
    let login = |password: &str| {
        let way = ["login", "lab", "--username", USERNAME, "--password-stdin"];
        let output = home.run_with_input(&way, password);
        (output.status.code(), words(&output))
    };
    let (code, said) = login("wrong");
    assert!(code == Some(1) && said.contains("wrong user name or password\n  check user name and password"), "{said}");
    let field = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let rows = [
        (502, vec![], "answered 502 with a web page", "is in trouble: sign in again later (valetd doctor"),
        (503, field("Retry-After", "600"), "answered 503", "asked again in 10 min: sign in then"),
        (302, field("Location", "https://elsewhere.example"), "with a redirect", "correct the account's endpoint"),
        (429, vec![], "answered 429", "too many requests: sign in again in a few minutes"),
    ];
    for (status, fields, what, remedy) in rows {
        server.behave(Behaviour::Status(status, "<p>no</p>".to_owned(), fields), Some(1));
        let (code, said) = login(PASSWORD);
        assert!(code == Some(1) && said.contains(what) && said.contains(remedy), "{status}: {said}");
    }
    server.behave(Behaviour::Html, Some(1));
    let (code, said) = login(PASSWORD);
    assert!(code == Some(1) && said.contains("something else than the token endpoint may have answered"), "{said}");
    assert_eq!(login(PASSWORD).0, Some(0));
}

#[test]
fn an_account_with_one_way_asks_for_it_without_a_menu() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = Home::with(&config(&server, "[\"paste\"]"));
    let mut terminal = Terminal::open(&home, &login(" --no-browser"));
    let before = terminal.answer("Code: ", &server.mint_code());
    assert!(before.contains("https://lab.example/login") && !before.contains("Which one?"), "{before}");
    terminal.until("lab: signed in");
    assert_eq!(terminal.exit().0, Some(0));
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
