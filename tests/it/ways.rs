//! The ways to sign in that a browser takes part in: on this machine (RFC 8252), and on any device (RFC 8628). The browser is
//! a few lines here; real ones sign in at real servers in tests/interop.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use valetd::stand_in::{Decision, Options, PASSWORD, Provider, USERNAME};

use crate::support::lab::Server;
use crate::support::nobody::{act_as_nobody, is_root};
use crate::support::terminal::Terminal;
use crate::support::{Answer, Home, VALETD, eventually, get, request, send, words};

const PROMPT: &str = "Or paste the address that the browser ends on: ";

fn start() -> Server {
    Server::start(Provider::OpenId, Options::default())
}

/// The account `lab` of a server, with these ways to sign in and whatever else is said of it.
fn config(server: &Server, ways: &str, more: &str) -> String {
    let url = server.url();
    format!(
        "listen = []\n[account.lab]\ntoken_endpoint = \"{url}/token\"\n\
         revocation_endpoint = \"{url}/revoke\"\nauthorization_endpoint = \"{url}/authorize\"\n\
         device_authorization_endpoint = \"{url}/device_authorization\"\nclient_id = \"lab\"\n\
         scopes = [\"openid\", \"offline_access\"]\nupstream = \"{url}\"\nsign_in = {ways}\n{more}\n"
    )
}

/// The command that signs in to it.
fn login(options: &str) -> String {
    format!("'{VALETD}' login lab{options}")
}

/// What was asked of the token service, and what came of it.
fn asked(server: &Server) -> Vec<String> {
    server.log().token_calls.iter().map(|call| format!("{} {}", call.grant, call.outcome)).collect()
}

/// Host, port and the rest of an address.
fn parts(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").expect("an address on this machine");
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

fn open(url: &str) -> Answer {
    let (address, target) = parts(url);
    send(address, "GET", target, &[("Sec-Fetch-Mode", "navigate")], b"").expect("an answer")
}

/// Goes where a browser would, to the last page. Returns the addresses on the way, and that page.
fn browse(url: &str) -> (Vec<String>, Answer) {
    let mut way = vec![url.to_owned()];
    loop {
        let here = way.last().expect("it begins somewhere").clone();
        let answer = open(&here);
        let Some(location) = answer.header("location") else { return (way, answer) };
        let next = match location.starts_with('/') {
            true => format!("http://{}{location}", parts(&here).0),
            false => location.to_owned(),
        };
        way.push(next);
    }
}

/// The address that the terminal shows.
fn shown_address(terminal: &mut Terminal) -> String {
    terminal.until("in a browser:");
    terminal.until("http://");
    let rest = terminal.until("\r\n");
    format!("http://{rest}")
}

fn record(home: &Home) -> Value {
    let text = fs::read(home.path("state/valetd/lab.json")).expect("a record");
    serde_json::from_slice(&text).expect("JSON")
}

fn is_signed_in(home: &Home) -> bool {
    home.path("state/valetd/lab.json").exists()
}

#[test]
fn a_browser_signs_in_and_its_last_page_tells_the_truth_at_a_clean_address() {
    let server = start();
    let home = Home::with(&config(&server, "[\"browser\", \"device\"]", ""));
    let mut terminal = Terminal::open(&home, &login(" --no-browser"));
    let url = shown_address(&mut terminal);
    for part in
        ["response_type=code", "code_challenge_method=S256", "scope=openid%20offline_access", "nonce=", "state="]
    {
        assert!(url.contains(part), "{part}: {url}");
    }
    terminal.until(PROMPT);
    let (way, page) = browse(&url);
    let [_, callback, last] = way.as_slice() else { panic!("{way:?}") };
    assert!(callback.contains("/callback?code=") && !last.contains('?'), "{way:?}");
    let text = page.text();
    assert!(page.status == 200 && text.contains("Signed in") && text.contains("ada@example.org"), "{text}");
    assert_eq!(page.header("content-security-policy").map(|csp| csp.starts_with("default-src 'none'")), Some(true));
    terminal.until("lab: signed in as ada@example.org");
    assert_eq!(terminal.exit().0, Some(0));
    assert_eq!(asked(&server), ["authorization_code issued"]);
    assert_eq!(record(&home)["identity"], "ada@example.org");
    assert!(!home.path("state/valetd/lab.sign-in.json").exists(), "the verifier has gone");
    assert!(send(parts(last).0, "GET", "/", &[], b"").is_err(), "the listener has gone");
}

#[test]
fn further_scopes_are_asked_for_once_and_stand_with_the_accounts_own() {
    let server = start();
    let home = Home::with(&config(&server, "[\"browser\"]", ""));
    let mut terminal = Terminal::open(&home, &login(" --no-browser --scope 'repo  openid'"));
    let url = shown_address(&mut terminal);
    assert!(url.contains("scope=openid%20offline_access%20repo&") || url.ends_with("offline_access%20repo"), "{url}");
    terminal.until(PROMPT);
    browse(&url);
    terminal.until("lab: signed in as ada@example.org");
}

#[test]
fn noise_and_other_sign_ins_answers_do_not_end_the_wait() {
    let server = start();
    let home = Home::with(&config(&server, "[\"browser\"]", "redirect = \"http://localhost/cb\""));
    let mut terminal = Terminal::open(&home, &login(" --no-browser"));
    let url = shown_address(&mut terminal);
    terminal.until(PROMPT);
    let callback = open(&url).header("location").expect("it sends the browser back").to_owned();
    let (address, target) = parts(&callback);
    let (_, port) = address.split_once(':').expect("a port");
    let here = format!("127.0.0.1:{port}");
    let knock = |target: &str, fields: &[(&str, &str)]| {
        let fields: Vec<(&str, &str)> = [("Host", address)].into_iter().chain(fields.iter().copied()).collect();
        send(&here, "GET", target, &fields, b"").expect("an answer").status
    };
    let rows = [
        ("a favicon", knock("/favicon.ico", &[]), 204),
        ("a scanner", knock("/wp-login.php", &[]), 404),
        ("another sign-in's answer", knock("/cb?code=c&state=other", &[]), 400),
        ("another sign-in's refusal", knock("/cb?error=access_denied&state=other", &[]), 400),
        ("a prefetch of the answer", knock(target, &[("Sec-Purpose", "prefetch")]), 403),
        ("a script's request for it", knock(target, &[("Sec-Fetch-Mode", "cors")]), 403),
    ];
    for (case, status, expected) in rows {
        assert_eq!(status, expected, "{case}");
    }
    let rebound = send(&here, "GET", target, &[("Host", "evil.example")], b"").expect("an answer");
    assert_eq!(rebound.status, 421);
    assert_eq!(asked(&server), [""; 0], "nothing was redeemed");
    let (_, page) = browse(&callback.replace("localhost", "127.0.0.1"));
    assert_eq!(page.status, 421, "a host that is not the redirect's");
    let answer = send(&here, "GET", target, &[("Host", address), ("Sec-Fetch-Mode", "navigate")], b"");
    assert_eq!(answer.expect("an answer").status, 303);
    terminal.until("lab: signed in as ada@example.org");
    assert_eq!(terminal.exit().0, Some(0));
}

#[test]
fn another_users_connections_to_a_sign_ins_listener_are_closed_and_keep_nobody_out() {
    if !is_root() {
        return;
    }
    let server = start();
    let home = Home::with(&config(&server, "[\"browser\"]", "redirect = \"http://127.0.0.1/cb\""));
    let mut terminal = Terminal::open(&home, &login(" --no-browser"));
    let url = shown_address(&mut terminal);
    terminal.until(PROMPT);
    let callback = open(&url).header("location").expect("it sends the browser back").to_owned();
    let (address, target) = parts(&callback);
    // more than there are places, and each asks nothing
    let idle: Vec<_> = act_as_nobody(|| (0..100).map(|_| TcpStream::connect(address).expect("a connection")).collect());
    for mut stream in idle {
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        // an end, or a reset: what is not read is no answer
        assert!(matches!(stream.read(&mut [0]).map_err(|error| error.kind()), Ok(0) | Err(ErrorKind::ConnectionReset)));
    }
    let stolen = act_as_nobody(|| send(address, "GET", target, &[], b""));
    assert!(stolen.is_err(), "{stolen:?}");
    assert_eq!(asked(&server), [""; 0], "whoever has the address is another user all the same");
    let (_, page) = browse(&callback);
    assert!(page.text().contains("Signed in"), "{}", page.text());
    terminal.until("lab: signed in as ada@example.org");
    assert_eq!(terminal.exit().0, Some(0));
}

#[test]
fn an_address_is_taken_from_the_same_prompt_and_over_ssh_the_tunnels_command_is_shown() {
    let server = start();
    let home = Home::with(&config(&server, "[\"browser\"]", ""));
    let ssh = "env USER=ada SSH_CONNECTION='10.0.0.9 50022 10.0.0.5 2222' ";
    let mut terminal = Terminal::open(&home, &format!("{ssh}{}", login("")));
    let url = shown_address(&mut terminal);
    let before = terminal.until(PROMPT);
    let callback = open(&url).header("location").expect("it sends the browser back").to_owned();
    let port = parts(&callback).0.split_once(':').expect("a port").1;
    let command = format!("ssh -N -L {port}:127.0.0.1:{port} -p 2222 ada@10.0.0.5");
    assert!(before.contains(&command), "{before}");
    terminal.type_line("http://127.0.0.1:1/callback?code=c&state=other");
    terminal.until("answers another sign-in");
    terminal.answer(PROMPT, &callback);
    terminal.until("lab: signed in as ada@example.org");
    assert_eq!(terminal.exit().0, Some(0));
    assert_eq!(asked(&server), ["authorization_code issued"]);

    // chosen, nobody listens, and the page's address is all that is waited for
    let mut terminal = Terminal::open(&home, &login(" --paste --no-browser"));
    terminal.until("paste the one-time code that it shows here, or the whole address that it");
    let shown = terminal.until("Code: ");
    assert!(!shown.contains("goes on by itself"), "{shown}");
    terminal.type_line("\x03");
    assert_eq!(terminal.exit().0, Some(130));
}

#[test]
fn what_the_server_or_the_person_refuses_is_said_with_a_code_and_nothing_is_kept() {
    type Row<'a> = (&'a str, Decision, Option<&'a str>, Option<&'a str>, &'a str, i32);
    let rows: [Row<'_>; 5] = [
        (
            "the person",
            Decision::No("access_denied", "not today"),
            None,
            None,
            "refused on the server's page (not today)",
            3,
        ),
        (
            "a scope",
            Decision::No("invalid_scope", "no"),
            None,
            None,
            "the authorization server said: invalid_scope (no)",
            1,
        ),
        ("another issuer", Decision::Yes, Some("https://evil.example"), None, "another authorization server", 1),
        ("another nonce", Decision::Yes, None, Some("n"), "issued to another sign-in", 1),
        (
            "another issuer's refusal",
            Decision::No("access_denied", "x"),
            Some("https://evil.example"),
            None,
            "another authorization server",
            1,
        ),
    ];
    for (case, decision, iss, nonce, words, exit) in rows {
        let server = start();
        server.change_manners(|manners| {
            manners.decision = decision;
            manners.iss = iss.map(str::to_owned);
            manners.nonce = nonce.map(str::to_owned);
        });
        let home = Home::with(&config(&server, "[\"browser\"]", ""));
        let mut terminal = Terminal::open(&home, &login(" --no-browser"));
        let url = shown_address(&mut terminal);
        terminal.until(PROMPT);
        let (_, page) = browse(&url);
        assert!(page.text().contains("Not signed in"), "{case}: {}", page.text());
        let (code, screen) = terminal.exit();
        assert!(screen.contains(words), "{case}: {screen}");
        assert_eq!((code, is_signed_in(&home)), (Some(exit), false), "{case}");
    }
}

#[test]
fn a_request_is_pushed_where_the_server_takes_that_and_the_address_is_short() {
    let server = start();
    // all that is known of the server, it says itself
    let url = server.url();
    let account = "client_id = \"lab\"\nsign_in = [\"browser\"]\nscopes = [\"openid\"]";
    let home =
        Home::with(&format!("listen = []\n[account.lab]\nissuer = \"{url}\"\nupstream = \"{url}\"\n{account}\n"));
    let mut terminal = Terminal::open(&home, &login(" --no-browser"));
    let url = shown_address(&mut terminal);
    assert!(url.contains("request_uri=") && !url.contains("code_challenge") && url.len() < 160, "{url}");
    let (_, page) = browse(&url);
    assert!(page.text().contains("Signed in"), "{}", page.text());
    assert_eq!(terminal.exit().0, Some(0));
    assert_eq!(asked(&server), ["par pushed", "authorization_code issued"]);

    server.change_manners(|manners| manners.refuses = Some("invalid_client"));
    let (code, screen) = Terminal::open(&home, &login(" --no-browser")).exit();
    assert!(code == Some(1) && screen.contains("invalid_client"), "{screen}");
}

#[test]
fn a_taken_port_is_said_with_its_holder_and_the_next_way_is_taken() {
    let server = start();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let redirect = format!("redirect = \"http://127.0.0.1:{port}/callback\"");
    let home = Home::with(&config(&server, "[\"browser\", \"device\"]", &redirect));
    let mut terminal = Terminal::open(&home, &login(""));
    terminal.until(&format!("port {port} of the redirect is taken: by process {}", std::process::id()));
    terminal.until("The next one is a code that you enter on any device.");
    terminal.until("WDJB-MJHT");
    terminal.until("lab: signed in as ada@example.org");
    assert_eq!(terminal.exit().0, Some(0));
    // chosen, it has no next one
    let (code, screen) = Terminal::open(&home, &login(" --browser")).exit();
    assert!(code == Some(1) && screen.contains("is taken") && !screen.contains("WDJB"), "{screen}");
    drop(taken);
    let mut terminal = Terminal::open(&home, &login(" --no-browser"));
    let url = shown_address(&mut terminal);
    assert!(url.contains(&format!("redirect_uri=http%3A%2F%2F127.0.0.1%3A{port}%2Fcallback")), "{url}");
    browse(&url);
    assert_eq!(terminal.exit().0, Some(0));
}

#[test]
fn a_device_code_is_asked_for_as_slowly_as_the_server_wants_and_with_its_picture() {
    let server = start();
    server.change_manners(|manners| manners.device_answers = vec!["authorization_pending", "slow_down"]);
    let home = Home::with(&config(&server, "[\"browser\", \"device\"]", "device_pkce = true"));
    let mut terminal = Terminal::open(&home, &login(" --device --qr"));
    terminal.until(&format!("{}/device\r\n", server.url()));
    terminal.until("WDJB-MJHT");
    terminal.until("\x1b[30;107m");
    terminal.until("4:59 left (Ctrl-C cancels)");
    terminal.until("lab: signed in as ada@example.org");
    assert_eq!(terminal.exit().0, Some(0));
    let calls = server.log().token_calls;
    let outcomes: Vec<&str> = calls.iter().map(|call| call.outcome.as_str()).collect();
    assert_eq!(outcomes, ["begun", "authorization_pending", "slow_down", "issued"]);
    let pause = |from: usize| calls[from + 1].at.duration_since(calls[from].at).expect("in order");
    assert!(pause(0) >= Duration::from_millis(900) && pause(1) >= Duration::from_millis(900));
    assert!(pause(2) >= Duration::from_millis(5900), "{:?}", pause(2));
}

#[test]
fn what_ends_a_device_code_is_told_apart() {
    let rows: [(&str, bool, Vec<&'static str>, &str, i32); 5] = [
        ("the person said no", false, vec!["access_denied"], "refused on the server's page", 3),
        ("in Microsoft's words", false, vec!["authorization_declined"], "refused on the server's page", 3),
        ("it expired", false, vec!["expired_token"], "nobody signed in in time", 3),
        (
            "in GitHub's words, with 200",
            true,
            vec!["authorization_pending", "token_expired"],
            "nobody signed in in time",
            3,
        ),
        ("the client is not known", false, vec!["invalid_client"], "invalid_client", 1),
    ];
    for (case, github, answers, words, exit) in rows {
        let server = start();
        server.change_manners(|manners| {
            manners.github = github;
            manners.device_answers = answers;
        });
        let home = Home::with(&config(&server, "[\"device\"]", ""));
        let terminal = Terminal::open(&home, &login(" --no-qr"));
        let (code, screen) = terminal.exit();
        assert!(screen.contains(words) && !screen.contains("\x1b[30;107m"), "{case}: {screen}");
        assert_eq!((code, is_signed_in(&home)), (Some(exit), false), "{case}");
    }
}

#[test]
fn where_device_codes_are_switched_off_the_next_way_is_taken() {
    for (github, code) in [(true, "device_flow_disabled"), (false, "unauthorized_client"), (false, "invalid_request")] {
        let server = start();
        server.change_manners(|manners| {
            manners.github = github;
            manners.refuses = Some(code);
        });
        let home = Home::with(&config(&server, "[\"device\", \"browser\"]", ""));
        let mut terminal = Terminal::open(&home, &login(" --no-browser"));
        terminal.until(code);
        terminal.until("The next one is a browser on this machine.");
        let url = shown_address(&mut terminal);
        browse(&url);
        terminal.until("lab: signed in as ada@example.org");
        assert_eq!(terminal.exit().0, Some(0), "{code}");
    }
}

#[test]
fn a_server_that_is_away_for_a_while_does_not_end_a_device_code() {
    let server = start();
    server.change_manners(|manners| manners.device_answers = vec!["authorization_pending"]);
    let home = Home::with(&config(&server, "[\"device\"]", ""));
    let mut terminal = Terminal::open(&home, &login(" --no-qr"));
    terminal.until("WDJB-MJHT");
    server.behave(valetd::stand_in::Behaviour::Html, Some(1));
    terminal.until("lab: signed in as ada@example.org");
    assert_eq!(terminal.exit().0, Some(0));
    let outcomes: Vec<String> = server.log().token_calls.iter().map(|call| call.outcome.clone()).collect();
    assert_eq!(outcomes, ["begun", "html", "authorization_pending", "issued"]);
}

#[test]
fn ctrl_c_leaves_each_of_them_at_any_moment_and_keeps_nothing() {
    let server = start();
    server.change_manners(|manners| manners.device_answers = vec!["authorization_pending"; 100]);
    let home = Home::with(&config(&server, "[\"browser\", \"device\"]", ""));
    let mut terminal = Terminal::open(&home, &login(" --no-browser"));
    let url = shown_address(&mut terminal);
    terminal.until(PROMPT);
    terminal.type_line("half a line\x03");
    let (code, _) = terminal.exit();
    assert_eq!((code, is_signed_in(&home)), (Some(130), false));
    assert!(!home.path("state/valetd/lab.sign-in.json").exists());
    let callback = open(&url).header("location").expect("sent back").to_owned();
    assert!(send(parts(&callback).0, "GET", "/", &[], b"").is_err(), "nobody listens any more");

    let mut terminal = Terminal::open(&home, &login(" --device --no-qr"));
    terminal.until("left (Ctrl-C cancels)");
    terminal.type_line("\x03");
    assert_eq!((terminal.exit().0, is_signed_in(&home)), (Some(130), false));
}

#[test]
fn one_sign_in_of_an_account_is_under_way_at_a_time() {
    let server = start();
    let home = Home::with(&config(&server, "[\"browser\"]", ""));
    let mut first = Terminal::open(&home, &login(" --no-browser"));
    let url = shown_address(&mut first);
    first.until(PROMPT);
    let (code, screen) = Terminal::open(&home, &login(" --no-browser")).exit();
    assert!(code == Some(1) && screen.contains("is under way already, in process "), "{screen}");
    // a third terminal can bring the address to an end
    let callback = open(&url).header("location").expect("sent back").to_owned();
    let output = home.run(&["login", "lab", "--code", &callback]);
    assert!(output.status.success(), "{}", words(&output));
    first.type_line("\x03");
    assert_eq!(first.exit().0, Some(130));
    assert!(is_signed_in(&home));
    // and its end leaves the account free
    let mut again = Terminal::open(&home, &login(" --no-browser"));
    again.until(PROMPT);
    again.type_line("\x03");
    assert_eq!(again.exit().0, Some(130));
}

#[test]
fn the_page_does_not_wait_for_ever_for_a_server_that_hangs() {
    let server = start();
    let home = Home::with(&config(&server, "[\"browser\"]", ""));
    let mut terminal = Terminal::open(&home, &login(" --no-browser"));
    let url = shown_address(&mut terminal);
    terminal.until(PROMPT);
    server.behave(valetd::stand_in::Behaviour::Hang(Duration::from_secs(18)), Some(1));
    let browser = thread::spawn(move || browse(&url));
    eventually("the browser is let go", || browser.is_finished().then_some(()));
    let (_, page) = browser.join().expect("no panic");
    assert!(page.text().contains("Almost there"), "{}", page.text());
    terminal.until("lab: signed in as ada@example.org");
    assert_eq!(terminal.exit().0, Some(0));
}

#[test]
fn what_a_browser_brings_is_kept_though_the_daemon_ends_while_it_is_handed_over() {
    let server = start();
    let home = Home::with(&config(&server, "[\"browser\"]", ""));
    fs::create_dir_all(home.socket().parent().expect("a folder")).expect("it is made");
    let dying = UnixListener::bind(home.socket()).expect("nobody listens there");
    let socket = home.socket();
    thread::spawn(move || {
        // the status before the sign-in, and what is handed over
        for _ in 0..3 {
            let (mut call, _) = dying.accept().expect("it is called");
            let _ = call.read(&mut [0; 64]);
        }
        drop(dying);
        let _ = fs::remove_file(socket);
    });
    let mut terminal = Terminal::open(&home, &login(" --no-browser"));
    let url = shown_address(&mut terminal);
    let browser = thread::spawn(move || browse(&url));
    let (code, screen) = terminal.exit();
    let (_, page) = browser.join().expect("no panic");
    assert!(code == Some(0) && screen.contains("signed in as ada@example.org; saved for when"), "{screen}");
    assert!(page.text().contains("<h1>Signed in</h1>"), "{}", page.text());
    assert!(is_signed_in(&home));
}

#[test]
fn another_person_is_kept_out_unless_that_is_meant_with_a_daemon_and_without() {
    let server = start();
    let home = Home::with(&config(&server, "[\"browser\"]", ""));
    let sign_in = |person: &str, options: &str| {
        server.change_manners(|manners| manners.person = person.to_owned());
        let mut terminal = Terminal::open(&home, &login(&format!(" --no-browser{options}")));
        let url = shown_address(&mut terminal);
        let page = browse(&url).1.text();
        let (code, screen) = terminal.exit();
        let title = if code == Some(0) { "<h1>Signed in</h1>" } else { "<h1>Not signed in</h1>" };
        assert!(page.contains(title), "the page says what the terminal says, {screen}: {page}");
        assert!(code == Some(0) || page.contains(&format!("{person}@example.org ({person}) signed in now")), "{page}");
        ((code, screen), url)
    };
    let told = "bob@example.org (bob) signed in now, and ada@example.org (ada) is signed in: nothing was changed";
    for with_daemon in [false, true] {
        let mut daemon = with_daemon.then(|| home.start());
        let ((code, screen), url) = sign_in("ada", " --switch-user");
        assert!(code == Some(0) && screen.contains("signed in as ada@example.org"), "{screen}");
        assert!(url.contains("prompt=login"), "the browser's own session is not taken: {url}");
        let before = record(&home);
        assert_eq!(before["person"], serde_json::json!({"issuer": server.url(), "subject": "ada"}));
        let ((code, screen), url) = sign_in("bob", "");
        assert!(code == Some(1) && screen.contains(told) && screen.contains("--switch-user"), "{screen}");
        assert!(!url.contains("prompt="), "{url}");
        assert_eq!(record(&home)["refresh_token"], before["refresh_token"]);
        let ((code, screen), _) = sign_in("ada", "");
        assert!(code == Some(0) && screen.contains("signed in as ada@example.org"), "{screen}");
        let ((code, screen), _) = sign_in("bob", " --switch-user");
        assert!(code == Some(0) && screen.contains("signed in as bob@example.org"), "{screen}");
        assert_eq!(record(&home)["person"]["subject"], "bob");
        if let Some(daemon) = &mut daemon {
            daemon.signal("TERM");
        }
    }
}

#[test]
fn another_persons_refresh_token_is_kept_out_where_no_token_names_anybody() {
    let server = start();
    let userinfo = format!("userinfo_endpoint = \"{}/userinfo\"", server.url());
    let home = Home::with(&config(&server, "[\"device\"]", &userinfo));
    server.change_manners(|manners| manners.id_token = false);
    let mut terminal = Terminal::open(&home, &login(" --no-qr"));
    terminal.until("lab: signed in as ada@example.org");
    assert_eq!(terminal.exit().0, Some(0));
    assert_eq!(record(&home)["person"], serde_json::json!({"issuer": server.url(), "subject": "ada"}));
    let hand_in = |person: &str, more: &[&str]| {
        server.change_manners(|manners| manners.person = person.to_owned());
        let words_of = [&["login", "lab", "--refresh-token-stdin"], more].concat();
        let output = home.run_with_input(&words_of, server.sign_in().expose());
        (output.status.code(), words(&output))
    };
    for with_daemon in [false, true] {
        home.write_config(&config(&server, "[\"device\"]", &userinfo));
        let mut daemon = with_daemon.then(|| home.start());
        if let Some(daemon) = &daemon {
            daemon.until("lab", "usable");
        }
        let before = record(&home)["generation"].clone();
        let (code, said) = hand_in("bob", &[]);
        assert!(code == Some(1) && said.contains("signed in now, and ada@example.org (ada) is"), "{said}");
        assert!(said.contains("bob"), "{said}");
        assert_eq!((&record(&home)["generation"], &record(&home)["person"]["subject"]), (&before, &"ada".into()));
        let (code, said) = hand_in("ada", &[]);
        assert!(code == Some(0), "it is asked whose it is: {said}");
        // with nobody to ask, the person who is signed in stays
        home.write_config(&config(&server, "[\"device\"]", ""));
        assert!(!with_daemon || home.run(&["reload"]).status.success());
        let before = record(&home)["generation"].clone();
        let (code, said) = hand_in("ada", &[]);
        let told = "the server does not tell who signed in now, and ada@example.org (ada) is signed in";
        assert!(code == Some(1) && said.contains(told) && said.contains("--switch-user"), "{said}");
        assert_eq!(record(&home)["generation"], before);
        let (code, said) = hand_in("bob", &["--switch-user"]);
        assert!(code == Some(0) && record(&home)["person"].is_null(), "{said}");
        // and where it is not known who that is, nobody is kept out, and that is said
        let (code, said) = hand_in("ada", &[]);
        assert!(code == Some(0) && said.contains("before this one was is not known"), "{said}");
        home.write_config(&config(&server, "[\"device\"]", &userinfo));
        assert!(!with_daemon || home.run(&["reload"]).status.success());
        let (code, said) = hand_in("ada", &["--switch-user"]);
        assert!(code == Some(0), "{said}");
        let mut terminal = Terminal::open(&home, &login(" --no-qr --switch-user"));
        terminal.until("lab: signed in as ada@example.org");
        assert_eq!(terminal.exit().0, Some(0));
        if let Some(daemon) = &mut daemon {
            daemon.signal("TERM");
        }
    }
}

#[test]
fn who_comes_is_asked_also_where_the_client_or_the_server_is_another_than_before() {
    let (server, other) = (start(), start());
    for server in [&server, &other] {
        server.change_manners(|manners| manners.id_token = false);
    }
    let account = |server: &Server, client: &str| {
        let userinfo = format!("userinfo_endpoint = \"{}/userinfo\"", server.url());
        config(server, "[\"device\"]", &userinfo).replace("client_id = \"lab\"", &format!("client_id = \"{client}\""))
    };
    let hand_in = |home: &Home, server: &Server, person: &str| {
        server.change_manners(|manners| manners.person = person.to_owned());
        let output = home.run_with_input(&["login", "lab", "--refresh-token-stdin"], server.sign_in().expose());
        (output.status.success(), words(&output))
    };
    for with_daemon in [false, true] {
        let home = Home::with(&account(&server, "lab"));
        let mut terminal = Terminal::open(&home, &login(" --no-qr"));
        terminal.until("lab: signed in as");
        assert_eq!(terminal.exit().0, Some(0));
        home.write_config(&account(&server, "lab-2"));
        let _daemon = with_daemon.then(|| home.start());
        let (is_taken, said) = hand_in(&home, &server, "bob");
        assert!(!is_taken && said.contains("bob@example.org (bob) signed in now, and ada"), "{with_daemon}: {said}");
        let (is_taken, said) = hand_in(&home, &server, "ada");
        assert!(is_taken && record(&home)["client_id"] == "lab-2", "{with_daemon}: {said}");
        // of another server, the same `sub` is no proof
        home.write_config(&account(&other, "lab-2"));
        assert!(!with_daemon || home.run(&["reload"]).status.success());
        let (is_taken, said) = hand_in(&home, &other, "ada");
        assert!(!is_taken && said.contains("whether they are one person nobody can tell"), "{with_daemon}: {said}");
        server.change_manners(|manners| manners.person = "ada".to_owned());
    }
}

#[test]
fn a_server_that_cannot_say_who_it_is_for_a_moment_lets_nobody_else_in_and_keeps_nobody_out() {
    let server = start();
    let userinfo = format!("userinfo_endpoint = \"{}/userinfo\"", server.url());
    let home = Home::with(&config(&server, "[\"device\"]", &userinfo));
    server.change_manners(|manners| manners.id_token = false);
    let sign_in = |person: &str, answers: &[u16]| {
        server.change_manners(|manners| {
            (manners.person, manners.userinfo_answers) = (person.to_owned(), answers.to_vec());
        });
        Terminal::open(&home, &login(" --no-qr")).exit()
    };
    let authority = parts(server.url()).0.to_owned();
    let unlearnt = |status: u16| format!("who signed in could not be learnt yet: {authority} answered {status}");
    // nobody is signed in: that it is not known who comes is said
    let (code, screen) = sign_in("ada", &[403]);
    assert!(code == Some(0) && screen.contains(&unlearnt(403)), "{screen}");
    assert!(record(&home)["person"].is_null());
    for with_daemon in [false, true] {
        let mut daemon = with_daemon.then(|| home.start());
        let (code, screen) = sign_in("ada", &[500, 503]);
        assert!(code == Some(0) && screen.contains("signed in as ada@example.org"), "{screen}");
        assert!(!screen.contains("learnt"), "it was asked again: {screen}");
        assert_eq!(record(&home)["person"]["subject"], "ada");
        // it stays so during the sign-in, and the trial asks again
        let (code, screen) = sign_in("ada", &[500; 3]);
        assert!(code == Some(0) && screen.contains("signed in as ada@example.org"), "{screen}");
        let before = record(&home);
        let (code, screen) = sign_in("bob", &[500; 3]);
        assert!(
            code == Some(1) && screen.contains("bob@example.org (bob) signed in now, and ada@example.org"),
            "{screen}"
        );
        let (code, screen) = sign_in("bob", &[500; 6]);
        let told =
            format!("who signed in now could not be learnt ({authority} answered 500), and ada@example.org (ada)");
        let screen = screen.replace("\r\n  ", " ");
        assert!(code == Some(1) && screen.contains(&told) && screen.contains("nothing was changed"), "{screen}");
        assert_eq!(record(&home)["person"], before["person"]);
        assert_eq!(record(&home)["refresh_token"], before["refresh_token"]);
        if let Some(daemon) = &mut daemon {
            daemon.signal("TERM");
        }
    }
}

#[test]
fn logout_revokes_in_the_form_that_the_account_names_and_tells_the_outcome() {
    let server = start();
    let form = format!(
        "revocation_endpoint = \"{}/applications/{{client_id}}/token\"\nrevocation = {{ method = \"DELETE\", token = \
         \"access_token\", name = \"access_token\", format = \"json\", client_auth = \"basic\" }}",
        server.url()
    );
    let rows = [
        (
            "client_secret = { command = [\"/bin/echo\", \"open-sesame\"] }",
            true,
            "lab: revoked at the server and forgotten here\n",
        ),
        (
            "client_secret = { command = [\"/bin/echo\", \"wrong\"] }",
            true,
            "lab: forgotten here, but not revoked at the server: 127.0.0.1",
        ),
        ("", true, "not revoked at the server: client_auth needs a client_secret"),
        (
            "client_secret = { command = [\"/bin/echo\", \"open-sesame\"] }",
            false,
            "it takes an access token for that, and none is at hand",
        ),
    ];
    for (secret, with_daemon, told) in rows {
        let own = config(&server, "[\"device\"]", &format!("{form}\n{secret}"));
        let without = format!("revocation_endpoint = \"{}/revoke\"\n", server.url());
        let home = Home::with(&own.replace(&without, ""));
        let daemon = with_daemon.then(|| home.start());
        let terminal = Terminal::open(&home, &login(" --no-qr"));
        let (code, screen) = terminal.exit();
        assert!(code == Some(0) && screen.contains("lab: signed in"), "{told}: {screen}");
        if let Some(daemon) = &daemon {
            daemon.until("lab", "usable");
        }
        let output = home.run(&["logout", "lab"]);
        assert!(output.status.success() && words(&output).contains(told), "{told}: {}", words(&output));
        assert!(!is_signed_in(&home));
    }
    let revoked = server.log().token_calls.iter().filter(|call| call.outcome == "revoked").count();
    assert_eq!(revoked, 1);
}

#[test]
fn a_one_time_password_goes_with_a_password_from_the_terminal_and_from_a_script() {
    let server = start();
    server.change_manners(|manners| manners.totp = Some("totp-canary-314159".to_owned()));
    let home = Home::with(&config(&server, "[\"password\"]", "password_otp = \"totp\""));
    let mut terminal = Terminal::open(&home, &login(&format!(" --username {USERNAME}")));
    terminal.answer("Password of", PASSWORD);
    terminal.answer("One-time password (Enter if there is none): ", "totp-canary-314159");
    terminal.until(&format!("lab: signed in as {USERNAME}"));
    let (code, screen) = terminal.exit();
    assert!(code == Some(0) && !screen.contains("totp-canary"), "{screen}");
    let way = |more: &[&str]| {
        let words_of = [&["login", "lab", "--username", USERNAME, "--password-stdin"], more].concat();
        let output = home.run_with_input(&words_of, PASSWORD);
        (output.status.success(), words(&output))
    };
    let (is_done, said) = way(&[]);
    assert!(!is_done && said.contains("wrong user name or password"), "{said}");
    let (is_done, said) = way(&["--otp", "totp-canary-314159"]);
    assert!(is_done && said.contains("signed in as"), "{said}");
    home.write_config(&config(&server, "[\"password\"]", ""));
    let (is_done, said) = way(&["--otp", "1"]);
    assert!(!is_done && said.contains("password_otp = \"totp\""), "{said}");
}

#[test]
fn gbdx_is_asked_who_is_signed_in_by_its_own_endpoint() {
    let gbdx = Server::start(Provider::Gbdx, Options::default());
    let url = gbdx.url();
    let home = Home::with(&format!(
        "listen = []\n[account.gbdx]\nprovider = \"gbdx\"\ntoken_endpoint = \"{}\"\nupstream = \"{url}\"\n\
         identity = \"{url}/auth/v1/validate_token#/username\"\n",
        gbdx.token_endpoint()
    ));
    let daemon = home.start();
    let way = ["login", "gbdx", "--username", USERNAME, "--password-stdin"];
    let output = home.run_with_input(&way, PASSWORD);
    assert!(output.status.success(), "{}", words(&output));
    daemon.until("gbdx", "usable");
    let text = fs::read(home.path("state/valetd/gbdx.json")).expect("a record");
    let record: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(record["person"], serde_json::json!({"issuer": url, "subject": "7"}));
    let output = home.run(&["login", "gbdx", "--check"]);
    let told = format!("gbdx: {USERNAME} (7) is signed in, says {}\n", parts(url).0);
    assert_eq!((output.status.code(), words(&output)), (Some(0), told));
    // where no daemon could ask, what is known is said, and what to start
    drop(daemon);
    let output = home.run(&["login", "gbdx", "--check"]);
    let said = words(&output);
    assert!(output.status.code() == Some(1) && said.contains(&format!("{USERNAME} has signed in; ")), "{said}");
    assert!(said.contains("start it: valetd run; then: valetd login gbdx --check"), "{said}");
    assert!(home.run(&["logout", "gbdx"]).status.success());
    let output = home.run(&["login", "gbdx", "--check"]);
    assert!(output.status.code() == Some(3) && words(&output).contains("nobody is signed in"), "{}", words(&output));
}

#[test]
fn an_id_token_of_another_issuer_or_for_another_client_names_nobody() {
    let server = start();
    let rows: [(&str, Value); 5] = [
        ("iss", "https://evil.example".into()),
        ("aud", "another-client".into()),
        ("azp", "another-client".into()),
        ("exp", 1.into()),
        ("nonce", Value::Null),
    ];
    let url = server.url();
    let issuer = |more: &str| {
        format!(
            "listen = []\n[account.lab]\nissuer = \"{url}\"\nclient_id = \"lab\"\nupstream = \"{url}\"\n\
             scopes = [\"openid\", \"offline_access\"]\nsign_in = [\"browser\"]\n{more}\n"
        )
    };
    for (before, (claim, value)) in rows.into_iter().enumerate() {
        server.change_manners(|manners| manners.claims = vec![(claim, value)]);
        // the provider is asked instead, and it is known who that is
        let home = Home::with(&issuer(""));
        let mut terminal = Terminal::open(&home, &login(" --no-browser"));
        browse(&shown_address(&mut terminal));
        let (code, screen) = terminal.exit();
        assert!(code == Some(0) && screen.contains("signed in as ada@example.org"), "{claim}: {screen}");
        assert_eq!(record(&home)["person"], serde_json::json!({"issuer": url, "subject": "ada"}), "{claim}");
        let asked = server.log().api_calls.iter().filter(|call| call.target == "/userinfo").count();
        assert_eq!(asked, before + 1, "{claim}");
    }
}

#[test]
fn who_signed_in_is_asked_of_the_provider_where_its_tokens_do_not_say() {
    let server = start();
    let url = server.url().to_owned();
    let rows = [
        (format!("identity = \"{url}/user#/login\""), "ada", url.clone(), "583231"),
        (
            format!("identity = \"userinfo\"\nuserinfo_endpoint = \"{url}/userinfo\""),
            "ada@example.org",
            url.clone(),
            "ada",
        ),
    ];
    for (identity, name, issuer, subject) in rows {
        let home = Home::with(&config(&server, "[\"device\"]", &identity));
        let mut terminal = Terminal::open(&home, &login(" --no-qr"));
        terminal.until(&format!("lab: signed in as {name};"));
        assert_eq!(terminal.exit().0, Some(0));
        assert_eq!(record(&home)["person"], serde_json::json!({"issuer": issuer, "subject": subject}));
    }
}

#[test]
fn fewer_scopes_and_a_missing_refresh_token_are_told_with_what_can_be_done() {
    let server = start();
    server.change_manners(|manners| manners.scope = Some("profile,openid".to_owned()));
    let scopes = config(&server, "[\"device\"]", "").replace("[\"openid\",", "[\"openid\", \"profile\", \"repo\",");
    let home = Home::with(&scopes);
    let mut terminal = Terminal::open(&home, &login(" --no-qr"));
    terminal.until("lab: asked for, and not granted: repo\r\n");
    terminal.until("lab: signed in as");
    assert_eq!(terminal.exit().0, Some(0));

    server.change_manners(|manners| manners.refresh_token = false);
    let rows =
        [("", "authorize = { prompt = \"consent\" }"), ("authorize = { prompt = \"consent\" }", "may lack the right")];
    for (more, remedy) in rows {
        let home = Home::with(&config(&server, "[\"device\"]", more));
        let (code, screen) = Terminal::open(&home, &login(" --no-qr")).exit();
        assert!(screen.contains("sent no refresh token") && screen.contains(remedy), "{screen}");
        assert_eq!((code, is_signed_in(&home)), (Some(1), false));
    }
}

#[test]
fn the_provider_is_asked_who_is_signed_in_and_nothing_changes() {
    let server = start();
    let home = Home::with("");
    let asked_at = |endpoint: &str| {
        let endpoint = format!("{endpoint}_endpoint = \"{}/{}\"", server.url(), endpoint.replace("ction", "ct"));
        home.write_config(&config(&server, "[\"device\"]", &endpoint));
    };
    asked_at("userinfo");
    let check = || {
        let output = home.run(&["login", "lab", "--check"]);
        (output.status.code(), words(&output))
    };
    let (code, said) = check();
    assert!(code == Some(3) && said.contains("nobody is signed in"), "{said}");
    let daemon = home.start();
    assert!(check().1.contains("no usable access token"), "{}", check().1);
    let mut terminal = Terminal::open(&home, &login(" --no-qr"));
    terminal.until("lab: signed in as");
    assert_eq!(terminal.exit().0, Some(0));
    daemon.until("lab", "usable");
    assert_eq!(
        check(),
        (Some(0), format!("lab: ada@example.org (ada) is signed in, says {}\n", parts(server.url()).0))
    );
    server.change_manners(|manners| manners.person = "bob".to_owned());
    assert!(check().1.ends_with("; the sign-in was that of ada\n"), "{}", check().1);
    for endpoint in ["userinfo", "introspection"] {
        asked_at(endpoint);
        assert!(home.run(&["reload"]).status.success());
        if endpoint == "introspection" {
            assert!(home.run(&["refresh", "lab"]).status.success());
            assert!(check().1.contains("lab: bob is signed in, says 127.0.0.1"), "{}", check().1);
        }
        server.revoke_access_tokens();
        let (code, said) = check();
        assert!(code == Some(1) && said.contains("the access token is not known there"), "{endpoint}: {said}");
    }
    assert_eq!(record(&home)["person"]["subject"], "ada");
}

#[test]
fn what_a_sign_in_brings_after_a_sign_out_is_refused_and_revoked() {
    for (with_daemon, verb) in [(false, "logout"), (true, "logout"), (false, "remove"), (true, "remove")] {
        let server = start();
        let home = Home::with(&config(&server, "[\"browser\"]", ""));
        let daemon = with_daemon.then(|| home.start());
        let mut terminal = Terminal::open(&home, &login(" --no-browser"));
        let url = shown_address(&mut terminal);
        terminal.until(PROMPT);
        let kept = fs::read_to_string(home.path("state/valetd/lab.sign-in.lock")).expect("it is under way");
        let id = kept.lines().find_map(|line| line.strip_prefix("sign-in ")).expect("it has a name").to_owned();
        let output = home.run(&[verb, "lab"]);
        assert!(output.status.success(), "{}", words(&output));
        if let (Some(_), "logout") = (&daemon, verb) {
            // the daemon itself takes nothing of it, whoever hands it in
            let body = format!("{{\"refresh_token\":\"r\",\"trial\":\"skipped\",\"sign_in\":\"{id}\"}}");
            let answer = put_credential(&home, &body);
            assert!(answer.status == 409 && answer.text().contains("problem:signed-out"), "{}", answer.text());
        }
        let (_, page) = browse(&url);
        assert!(page.text().contains("Not signed in"), "{}", page.text());
        let (code, screen) = terminal.exit();
        let case = format!("{verb}, {with_daemon}: {screen}");
        assert!(code == Some(1) && screen.contains("somebody has signed out, or has removed the account"), "{case}");
        assert!(screen.contains("revoked at the server") && !is_signed_in(&home), "{case}");
        assert_eq!(asked(&server), ["authorization_code issued", "revoke revoked"], "{case}");
        let left = fs::read_dir(home.path("state/valetd")).expect("a folder").flatten();
        let left: Vec<_> = left.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        assert!(left.iter().all(|name| !name.starts_with("lab")), "{case}: {left:?}");
        if verb == "logout" {
            // and the next one is as any
            let mut terminal = Terminal::open(&home, &login(" --no-browser"));
            let url = shown_address(&mut terminal);
            browse(&url);
            terminal.until("lab: signed in as ada@example.org");
            assert_eq!(terminal.exit().0, Some(0));
        }
    }
}

fn put_credential(home: &Home, body: &str) -> Answer {
    let stream = std::os::unix::net::UnixStream::connect(home.socket()).expect("the daemon listens");
    let length = body.len();
    let head = format!(
        "PUT /v1/accounts/lab/credential HTTP/1.1\r\nHost: valetd\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    request(stream, &head, body.as_bytes()).expect("an answer")
}

#[test]
fn a_signal_at_a_question_ends_the_sign_in_and_leaves_a_terminal_that_shows_what_is_typed() {
    let server = start();
    server.change_manners(|manners| manners.device_answers = vec!["authorization_pending"; 100]);
    let home = Home::with(&config(&server, "[\"browser\", \"device\", \"password\"]", ""));
    let rows = [
        ("TERM", 143, " --username me", "Password of me: "),
        ("HUP", 129, " --username me", "Password of me: "),
        ("INT", 130, " --username me", "Password of me: "),
        ("QUIT", 131, " --username me", "Password of me: "),
        ("TERM", 143, " --browser", PROMPT),
        ("HUP", 129, " --device --no-qr", "left (Ctrl-C cancels)"),
    ];
    for (signal, code, options, question) in rows {
        let line = format!("{}; echo ended by $?; stty -a", login(options));
        let mut terminal = Terminal::open(&home, &line);
        terminal.until(question);
        let kept = fs::read_to_string(home.path("state/valetd/lab.sign-in.lock")).expect("it is under way");
        let pid = kept.split_whitespace().nth(1).expect("pid N");
        let killed = std::process::Command::new("kill").args([&format!("-{signal}"), pid]).status().expect("kill runs");
        assert!(killed.success());
        terminal.until(&format!("ended by {code}"));
        let (_, screen) = terminal.exit();
        let modes = screen.rsplit("ended by").next().expect("the last part");
        for mode in ["echo", "icanon", "isig", "iexten"] {
            let is_on = modes.split_whitespace().any(|word| word.trim_end_matches(';') == mode);
            assert!(is_on, "{mode} after SIG{signal} at {question:?}: {modes}");
        }
        assert!(!is_signed_in(&home));
    }
}

#[test]
fn without_a_terminal_a_way_that_needs_no_answer_goes_where_it_is_chosen_and_others_are_refused_in_words() {
    let server = start();
    let home = Home::with(&config(&server, "[\"device\", \"browser\", \"paste\"]", ""));
    let run = |options: &[&str]| {
        let arguments = [&["login", "lab"], options].concat();
        let mut command = home.valetd_by(&["setsid", "--wait"], &arguments);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().expect("setsid, of util-linux, is installed")
    };
    for options in [&[][..], &["--paste"]] {
        let output = run(options).wait_with_output().expect("it ends");
        let said = words(&output);
        assert!(output.status.code() == Some(1) && said.contains("there is no terminal to ask on"), "{said}");
        assert!(said.contains("--device") && !said.contains("os error"), "{said}");
    }
    assert_eq!(asked(&server), [""; 0]);
    let output = run(&["--device"]).wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("WDJB-MJHT") && said.contains("4:59 left") | said.contains("5:00 left"), "{said}");
    assert!(!said.contains('\x1b') && !said.contains('\r'), "it may be a file: {said}");
    assert!(output.status.success() && words(&output).contains("lab: signed in as ada@example.org"), "{said}");
    let mut child = run(&["--browser"]);
    // read to the end: who closes it would end the sign-in
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let url = lines.find(|line| line.starts_with("  http://")).expect("an address");
    browse(url.trim());
    let rest: Vec<String> = lines.collect();
    assert!(child.wait().expect("it ends").success(), "{rest:?}");
}

/// The longest from `add` to a response with the account's token, but for the person's own clicks (issue 18).
const FROM_ADD_TO_RESPONSE: Duration = Duration::from_secs(15);

#[test]
fn from_add_to_the_first_proxied_response_takes_seconds() {
    let server = start();
    let home = Home::with("listen = [\"127.0.0.1:0\"]\n");
    let daemon = home.start();
    let url = server.url();
    let begun = Instant::now();
    let add = format!("'{VALETD}' add notes {url} --client-id lab --upstream {url}");
    let mut terminal = Terminal::open(&home, &add);
    terminal.answer("Sign in now? [Y/n] ", "");
    let page = shown_address(&mut terminal);
    terminal.until(PROMPT);
    browse(&page);
    terminal.until("notes: signed in as ada@example.org");
    assert_eq!(terminal.exit().0, Some(0));
    let address = daemon.status()["daemon"]["listen"][0].as_str().expect("one listener").to_owned();
    let answer = get(&address, "/notes/ping").expect("an answer");
    let took = begun.elapsed();
    assert_eq!((answer.status, answer.text().as_str()), (200, "pong"));
    eprintln!("from add to the first proxied response: {} ms", took.as_millis());
    assert!(took < FROM_ADD_TO_RESPONSE, "{took:?}");
}
