//! What is handed in is tried before it takes the place of what works; and what comes back from a browser is checked.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use valetd::secret::Secret;
use valetd::stand_in::{Behaviour, Options, PASSWORD, Provider, Rotation, USERNAME};

use crate::support::lab::{self, Server, address, ping, rotating};
use crate::support::terminal::Terminal;
use crate::support::{Home, VALETD, get, mode, words};

const HAND_IN: &[&str] = &["login", "lab", "--refresh-token-stdin"];

fn record(home: &Home) -> String {
    fs::read_to_string(home.path("state/valetd/lab.json")).unwrap_or_default()
}

#[test]
fn a_wrong_token_replaces_nothing_that_works_with_and_without_a_daemon() {
    for rotation in [Rotation::Off, Rotation::Strict] {
        let server = Server::start(Provider::Gdh, rotating(rotation));
        let home = lab::home(&server, "", "", "");
        let before = record(&home);
        let refused = home.run_with_input(HAND_IN, "made-up");
        assert_eq!(refused.status.code(), Some(3), "{}", words(&refused));
        assert!(words(&refused).contains("invalid_grant"), "{}", words(&refused));
        assert_eq!(record(&home), before);

        let daemon = home.start();
        daemon.until("lab", "usable");
        let generation = daemon.account("lab")["credential"]["generation"].clone();
        let refused = home.run_with_input(HAND_IN, "made-up");
        assert_eq!(refused.status.code(), Some(1), "{}", words(&refused));
        assert_eq!(daemon.account("lab")["credential"]["generation"], generation);
        assert_eq!(ping(&address(&daemon)).status, 200);
        assert_eq!(lab::renew(&daemon)["state"], "usable", "its refresh token works as before");
    }
}

#[test]
fn a_refusal_that_only_a_challenge_names_is_one() {
    let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
    let home = lab::home(&server, lab::EAGER, "", "");
    let challenge = "Bearer realm=\"tokens\", error=\"invalid_grant\", error_description=\"Token is not active\"";
    let fields = vec![("WWW-Authenticate".to_owned(), challenge.to_owned())];
    server.behave(Behaviour::Status(401, String::new(), fields), None);
    let daemon = home.start();
    let account = daemon.until("lab", "sign-in-required");
    assert!(
        account.to_string().contains("401 invalid_grant in its WWW-Authenticate: Token is not active"),
        "{account}"
    );
    // it may have been a bad minute
    server.behave(Behaviour::Normal, None);
    assert_eq!(lab::renew(&daemon)["state"], "usable");
}

#[test]
fn a_good_token_takes_the_place_of_another_with_one_renewal() {
    let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
    let home = lab::home(&server, "", "", "");
    let done = home.run_with_input(HAND_IN, server.sign_in().expose());
    assert!(done.status.success(), "{}", words(&done));
    assert_eq!(server.issued(), 1, "it was tried");
    assert!(record(&home).contains(&server.newest_refresh_token()), "what the trial brought is kept");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let before = server.log().token_calls.len();
    let done = home.run_with_input(HAND_IN, server.sign_in().expose());
    assert!(done.status.success() && words(&done).contains("usable for"), "{}", words(&done));
    assert_eq!(server.log().token_calls.len(), before + 1, "its trial is its first renewal");
    assert_eq!(server.log().reuse_detected, 0);
    assert_eq!(ping(&address(&daemon)).status, 200);
}

/// A strict server would end the login that is kept.
#[test]
fn a_refresh_token_that_was_spent_before_is_not_sent_again_whoever_hands_it_in() {
    let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
    let file = "import = [{ json_file = \"~/their-file\" }]\n";
    let home = Home::with(&lab::config(&server, &format!("{file}{}", lab::EAGER), "", ""));
    let theirs = server.sign_in();
    fs::write(home.path("their-file"), format!("{{\"refresh_token\": \"{}\"}}", theirs.expose())).expect("written");
    let imported = home.run(&["login", "lab", "--import"]);
    assert!(imported.status.success(), "{}", words(&imported));
    let second = server.newest_refresh_token(); // the import's trial has spent the first
    for is_running in [false, true, false] {
        let daemon = is_running.then(|| home.start());
        if let Some(daemon) = &daemon {
            daemon.until("lab", "usable");
        }
        let calls = server.log().token_calls.len();
        let hand_in = |token: &str, more: &[&str]| home.run_with_input(&[HAND_IN, more].concat(), token);
        let mut refused =
            vec![home.run(&["login", "lab", "--import"]), home.run(&["login", "lab", "--import", "--untried"])];
        refused.extend([&[][..], &["--untried"]].map(|more| hand_in(theirs.expose(), more)));
        if is_running {
            refused.push(hand_in(&second, &[])); // that renewal of the daemon's has spent this one
        }
        for refused in refused {
            assert_eq!(refused.status.code(), Some(1), "{is_running}: {}", words(&refused));
            for part in ["was used already", "valetd login lab", "valetd logout lab"] {
                assert!(words(&refused).contains(part), "{is_running}: no {part}: {}", words(&refused));
            }
        }
        let log = server.log();
        assert_eq!((log.token_calls.len(), log.reuse_detected), (calls, 0), "{is_running}: nothing was sent");
        assert!(record(&home).contains(&server.newest_refresh_token()), "{is_running}");
    }
    let daemon = home.start();
    daemon.until("lab", "usable");
    // a new sign-in is none of it, and what it spends is known, too, beside what was spent before
    let third = server.sign_in();
    for (token, is_good) in [(&third, true), (&third, false), (&theirs, false)] {
        let done = home.run_with_input(HAND_IN, token.expose());
        assert_eq!(done.status.success(), is_good, "{}", words(&done));
    }
    assert_eq!((server.log().reuse_detected, lab::renew(&daemon)["state"].as_str()), (0, Some("usable")));
    // who wants to start from nothing but that token can, where it does no harm any more
    assert!(home.run(&["logout", "lab"]).status.success());
    let refused = home.run_with_input(HAND_IN, theirs.expose());
    assert!(words(&refused).contains("invalid_grant"), "{}", words(&refused));
}

/// A strict server would end the login that the other account keeps.
#[test]
fn a_refresh_token_of_another_account_is_not_sent_for_this_one() {
    let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
    let two = format!(
        "[account.two]\ntoken_endpoint = \"{}\"\nclient_id = \"lab-client\"\nupstream = \"{}\"\n",
        server.token_endpoint(),
        server.url()
    );
    let home = Home::with(&format!("{}{two}", lab::config(&server, lab::EAGER, "", "")));
    let first = server.sign_in();
    assert!(home.run_with_input(HAND_IN, first.expose()).status.success());
    for is_running in [false, true] {
        let daemon = is_running.then(|| home.start());
        if let Some(daemon) = &daemon {
            daemon.until("lab", "usable");
        }
        let calls = server.log().token_calls.len();
        for token in [first.expose(), &server.newest_refresh_token()] {
            for more in [&[][..], &["--untried"]] {
                let arguments = [&["login", "two", "--refresh-token-stdin"], more].concat();
                let refused = home.run_with_input(&arguments, token);
                assert!(!refused.status.success(), "{is_running}: {}", words(&refused));
                for part in ["of the sign-in of account lab", "valetd login two"] {
                    assert!(words(&refused).contains(part), "{is_running}: no {part}: {}", words(&refused));
                }
            }
        }
        let log = server.log();
        assert_eq!((log.token_calls.len(), log.reuse_detected), (calls, 0), "{is_running}: nothing was sent");
        assert!(record(&home).contains(&server.newest_refresh_token()), "{is_running}");
    }
    let done = home.run_with_input(&["login", "two", "--refresh-token-stdin"], server.sign_in().expose());
    assert!(done.status.success(), "its own is taken: {}", words(&done));
}

#[test]
fn without_an_answer_the_old_one_stays_unless_the_new_one_is_to_be_believed() {
    let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
    let home = lab::home(&server, lab::EAGER, "", "");
    let nothing = Behaviour::Status(503, String::new(), Vec::new());
    for is_running in [false, true] {
        server.behave(Behaviour::Normal, None);
        let daemon = is_running.then(|| home.start());
        if let Some(daemon) = &daemon {
            daemon.until("lab", "usable");
        }
        for behaviour in [nothing.clone(), Behaviour::ResetBefore, Behaviour::Html] {
            server.behave(behaviour.clone(), None);
            let before = record(&home);
            let kept = home.run_with_input(HAND_IN, server.sign_in().expose());
            assert_eq!(kept.status.code(), Some(1), "{behaviour:?}: {}", words(&kept));
            assert!(words(&kept).contains("--untried"), "{behaviour:?}: {}", words(&kept));
            assert_eq!(record(&home), before, "{behaviour:?}");
        }
        let new = server.sign_in();
        let believed = home.run_with_input(&[HAND_IN, &["--untried"]].concat(), new.expose());
        assert!(is_running || believed.status.success(), "{}", words(&believed));
        assert!(record(&home).contains(new.expose()), "{}", words(&believed));
        server.behave(Behaviour::Normal, None);
    }
}

#[test]
fn an_answer_that_is_lost_once_is_asked_for_again_where_the_server_has_a_grace_period() {
    let grace = Rotation::Grace(std::time::Duration::from_secs(60));
    let server = Server::start(Provider::Gdh, rotating(grace));
    let home = lab::home(&server, "", "", "");
    for is_running in [false, true] {
        let daemon = is_running.then(|| home.start());
        if let Some(daemon) = &daemon {
            daemon.until("lab", "usable");
        }
        server.behave(Behaviour::ResetAfter, Some(1));
        let done = home.run_with_input(HAND_IN, server.sign_in().expose());
        assert!(done.status.success(), "{is_running}: {}", words(&done));
        assert!(record(&home).contains(&server.newest_refresh_token()), "{is_running}");
    }
}

#[test]
fn a_daemon_that_ends_during_a_trial_loses_nothing_of_it_and_the_login_says_so() {
    let server = Server::start(Provider::Gdh, rotating(Rotation::Strict));
    let home = Home::with(&lab::config(&server, "", "", ""));
    let mut daemon = home.start();
    server.behave(Behaviour::Hang(Duration::from_secs(4)), Some(1)); // longer than a stop waits for its clients
    let token = server.sign_in();
    let login = thread::scope(|scope| {
        let login = scope.spawn(|| home.run_with_input(&["login", "lab", "--refresh-token-stdin"], token.expose()));
        daemon.until_logged("a credential was handed in");
        daemon.signal("TERM");
        login.join().expect("no panic")
    });
    assert!(login.status.success() && words(&login).contains("lab: signed in"), "{}", words(&login));
    assert!(record(&home).contains(&server.newest_refresh_token()));
    assert_eq!(server.log().reuse_detected, 0);
}

#[test]
fn standard_input_is_cleaned_where_it_is_certain_and_refused_in_words_where_it_is_not() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    for clinging in ["\u{feff}@\r\n", "\"@\"\n", "export GDH_REFRESH_TOKEN='@'\n", "{\"refresh_token\": \"@\"}\n"] {
        let token = server.sign_in();
        let done = home.run_with_input(HAND_IN, &clinging.replace('@', token.expose()));
        assert!(done.status.success(), "{clinging:?}: {}", words(&done));
        assert!(record(&home).contains(token.expose()), "{clinging:?}");
    }
    let before = (record(&home), server.log().token_calls.len());
    for unclear in ["one\ntwo\n", "null\n", "{\"access_token\": \"a\"}", "Bearer abc", "\"abc", "$TOKEN"] {
        let refused = home.run_with_input(HAND_IN, unclear);
        assert!(!refused.status.success(), "{unclear:?}");
        assert!(words(&refused).contains("reading the refresh token"), "{unclear:?}: {}", words(&refused));
        assert_eq!((record(&home), server.log().token_calls.len()), before, "{unclear:?}: nothing was sent");
    }
}

#[test]
fn user_name_and_password_in_gbdx_auths_file_are_one_password_grant() {
    let server = Server::start(Provider::Gbdx, Options::default());
    let home = Home::with(&format!(
        "listen = []\n[account.lab]\ntoken_endpoint = \"{}\"\nupstream = \"{}\"\nsign_in = [\"password\"]\n\
         import = [{{ gbdx_config = \"~/.gbdx-config\" }}]\n",
        server.token_endpoint(),
        server.url(),
    ));
    let file = home.path(".gbdx-config");
    fs::write(&file, format!("[gbdx]\nuser_name = {USERNAME}\nuser_password = {PASSWORD}\n")).expect("written");
    let done = home.run(&["login", "lab", "--import"]);
    assert!(done.status.success(), "{}", words(&done));
    assert!(record(&home).contains(&server.newest_refresh_token()) && !record(&home).contains(PASSWORD));
    let asked: Vec<String> = server.log().token_calls.iter().map(|call| call.grant.clone()).collect();
    assert_eq!(asked.iter().filter(|grant| *grant == "password").count(), 1, "{asked:?}");

    fs::write(&file, format!("[gbdx]\nuser_name = {USERNAME}\nuser_password = wrong\n")).expect("written");
    let before = record(&home);
    let refused = home.run(&["login", "lab", "--import"]);
    assert!(!refused.status.success() && record(&home) == before, "{}", words(&refused));
}

#[test]
fn a_stale_token_in_gbdx_auths_file_is_tried_first_and_then_the_password_beside_it() {
    let server = Server::start(Provider::Gbdx, Options::default());
    let home = Home::with(&format!(
        "listen = []\n[account.lab]\ntoken_endpoint = \"{}\"\nupstream = \"{}\"\nsign_in = [\"password\"]\n\
         import = [{{ json_file = \"~/pipe\" }}, {{ json_file = \"~/odd\" }}, {{ gbdx_config = \"~/.gbdx-config\" }}]\n",
        server.token_endpoint(),
        server.url(),
    ));
    let made = Command::new("mkfifo").arg(home.path("pipe")).status();
    assert!(made.expect("mkfifo runs").success());
    fs::write(home.path("odd"), "{\"refresh_token\": \"null\"}").expect("written");
    let write = |token: &str, password: &str| {
        let text = format!(
            "[gbdx]\nuser_name = {USERNAME}\nuser_password = {password}\n\
             [gbdx_token]\njson = {{\"refresh_token\": \"{token}\\n\"}}\n"
        );
        fs::write(home.path(".gbdx-config"), text).expect("written");
    };
    let grants = || server.log().token_calls.iter().map(|call| call.grant.clone()).collect::<Vec<_>>();
    for is_running in [false, true] {
        let daemon = is_running.then(|| home.start());
        if let Some(daemon) = &daemon {
            daemon.until("lab", "usable"); // its first renewal is none of the login's
        }
        let before = grants().len();
        write("stale", PASSWORD);
        let done = home.run(&["login", "lab", "--import"]);
        assert!(done.status.success(), "{is_running}: {}", words(&done));
        let said = words(&done);
        for part in ["a file of at most 1 MiB", "odd holds no refresh token: it is the word for nothing", "beside it"] {
            assert!(said.contains(part), "{is_running}: no {part} in {said}");
        }
        assert_eq!(grants()[before..][..2], ["refresh_token", "password"], "{is_running}");
        assert!(record(&home).contains(&server.newest_refresh_token()) && !record(&home).contains(PASSWORD));

        let good = server.sign_in();
        write(good.expose(), "wrong");
        let done = home.run(&["login", "lab", "--import"]);
        assert!(done.status.success() && record(&home).contains(good.expose()), "{is_running}: {}", words(&done));
        write("stale", "wrong");
        let kept = record(&home);
        let refused = home.run(&["login", "lab", "--import"]);
        assert!(!refused.status.success() && record(&home) == kept, "{is_running}: {}", words(&refused));
        drop(daemon);
    }
}

#[test]
fn a_token_in_gbdx_auths_file_that_was_spent_before_gives_way_to_the_password_beside_it() {
    let server = Server::start(Provider::Gbdx, rotating(Rotation::Strict));
    let home = Home::with(&format!(
        "listen = []\n[account.lab]\ntoken_endpoint = \"{}\"\nupstream = \"{}\"\nsign_in = [\"password\"]\n\
         import = [{{ gbdx_config = \"~/.gbdx-config\" }}]\n",
        server.token_endpoint(),
        server.url(),
    ));
    let text = format!(
        "[gbdx]\nuser_name = {USERNAME}\nuser_password = {PASSWORD}\n\
         [gbdx_token]\njson = {{\"refresh_token\": \"{}\"}}\n",
        server.sign_in().expose()
    );
    fs::write(home.path(".gbdx-config"), text).expect("written");
    let outcomes = [&["refresh_token"][..], &["password"]];
    for expected in outcomes {
        let before = server.log().token_calls.len();
        let done = home.run(&["login", "lab", "--import"]);
        assert!(done.status.success(), "{}", words(&done));
        let log = server.log();
        let asked: Vec<&str> = log.token_calls[before..].iter().map(|call| call.grant.as_str()).collect();
        assert_eq!((asked.as_slice(), log.reuse_detected), (expected, 0), "{}", words(&done));
        assert!(record(&home).contains(&server.newest_refresh_token()));
    }
}

/// An account that is signed in to on the stand-in's own page.
fn on_a_page(server: &Server) -> Home {
    Home::with(&format!(
        "listen = []\n[account.lab]\ntoken_endpoint = \"{0}\"\nrevocation_endpoint = \"{1}/oauth2/revoke\"\n\
         client_id = \"lab\"\nupstream = \"{1}\"\nsign_in = [\"paste\"]\n\
         login_page = \"{1}/login?response_type=code\"\nredirect_uri = \"{1}/validate-code.html\"\n",
        server.token_endpoint(),
        server.url(),
    ))
}

/// Where a browser ends that opens an address of the server's.
fn browse(server: &Server, url: &str) -> String {
    let path = url.strip_prefix(server.url()).expect("the server's own page");
    let answer = get(&server.address().to_string(), path).expect("an answer");
    answer.header("location").expect("a redirect").to_owned()
}

fn shown_address(terminal: &mut Terminal, server: &Server) -> String {
    terminal.until(server.url());
    let rest = terminal.until("\r\n");
    format!("{}{}", server.url(), rest.trim())
}

#[test]
fn every_address_that_is_shown_has_a_state_and_a_challenge_and_its_answer_is_checked() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = on_a_page(&server);
    let pending = home.path("state/valetd/lab.sign-in.json");
    let line = format!("'{VALETD}' login lab --no-browser");

    // the address that it ends on, after others were refused
    let mut terminal = Terminal::open(&home, &line);
    let url = shown_address(&mut terminal, &server);
    for parameter in ["&state=", "&code_challenge=", "&code_challenge_method=S256", "response_type=code"] {
        assert!(url.contains(parameter), "{parameter}: {url}");
    }
    terminal.until("Code: ");
    assert_eq!(mode(&pending), 0o600);
    let end = browse(&server, &url);
    terminal.type_line(&end.replace("state=", "state=x"));
    terminal.until("answers another sign-in");
    terminal.answer("Code: ", &format!("{end}&iss=https://evil.example"));
    terminal.until("another authorization server");
    terminal.answer("Code: ", &end);
    terminal.until("lab: signed in");
    assert_eq!(terminal.exit().0, Some(0));
    assert!(!pending.exists(), "it has been used");

    // a code alone: the server compares it with the verifier, and one of another request is worth nothing
    let stolen = browse(&server, &format!("{}/login?code_challenge=of-somebody-else", server.url()));
    let stolen = stolen.split("code=").nth(1).expect("a code").to_owned();
    let before = record(&home);
    let mut terminal = Terminal::open(&home, &line);
    terminal.answer("Code: ", &stolen);
    terminal.until("invalid_grant");
    assert_eq!(terminal.exit().0, Some(1));
    assert_eq!(record(&home), before);
}

#[test]
fn a_code_on_the_command_line_answers_the_sign_in_that_was_begun_here() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = on_a_page(&server);
    let pending = home.path("state/valetd/lab.sign-in.json");
    let begin = || {
        let mut terminal = Terminal::open(&home, &format!("'{VALETD}' login lab --no-browser"));
        let url = shown_address(&mut terminal, &server);
        terminal.answer("Code: ", "\x03");
        assert_eq!(terminal.exit().0, Some(130));
        assert!(pending.exists(), "it is kept for another process");
        browse(&server, &url)
    };
    let end = begin();
    let foreign = home.run(&["login", "lab", "--code", &end.replace("state=", "state=x")]);
    assert!(!foreign.status.success() && words(&foreign).contains("another sign-in"), "{}", words(&foreign));
    let done = home.run(&["login", "lab", "--code", &end]);
    assert!(done.status.success() && !words(&done).contains("nothing could be checked"), "{}", words(&done));
    assert!(!pending.exists());

    // without one it works as ever, and says so
    let done = home.run(&["login", "lab", "--code", &server.mint_code()]);
    assert!(done.status.success() && words(&done).contains("nothing could be checked"), "{}", words(&done));

    // a sign-out forgets it, with and without a daemon
    for is_running in [false, true] {
        begin();
        let _daemon = is_running.then(|| home.start());
        let done = home.run(&["logout", "lab"]);
        assert!(done.status.success() && !pending.exists(), "{is_running}: {}", words(&done));
    }
}

#[test]
fn sign_ins_that_end_at_once_without_a_daemon_are_all_kept() {
    let server = Server::start(Provider::Gdh, Options::default());
    let account = |name: &str| {
        let (token, url) = (server.token_endpoint(), server.url());
        format!("[account.{name}]\ntoken_endpoint = \"{token}\"\nclient_id = \"lab\"\nupstream = \"{url}\"\n")
    };
    let home = Home::with(&format!("listen = []\n{}{}{}", account("one"), account("two"), account("three")));
    // each is tried, under the store's lock, which takes the server's time
    server.behave(Behaviour::Hang(Duration::from_millis(700)), Some(3));
    let tokens = ["one", "two", "three"].map(|name| (name, server.sign_in()));
    thread::scope(|scope| {
        let login =
            |name, token: &Secret| home.run_with_input(&["login", name, "--refresh-token-stdin"], token.expose());
        let started = tokens.each_ref().map(|(name, token)| scope.spawn(move || login(name, token)));
        for login in started {
            let output = login.join().expect("no panic");
            assert!(output.status.success(), "{}", words(&output));
        }
    });
    for (name, _) in &tokens {
        assert!(home.path(&format!("state/valetd/{name}.json")).exists(), "{name}");
    }
}
