//! Planted secrets are looked for wherever a person, another user or another process could look: logs at the noisiest
//! level, what commands print, answers, status, metrics, arguments, environment, files. In no writing may they be found.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use valetd::stand_in::{Behaviour, Options, PASSWORD, Provider, Rotation, USERNAME};

use crate::support::company::Scene;
use crate::support::documents::Documents;
use crate::support::lab::Server;
use crate::support::terminal::Terminal;
use crate::support::{Daemon, Home, VALETD, eventually, get, send, words};

const CLIENT_SECRET: &str = "client-secret-canary-8c1f00aa77";
/// Libraries too, which are quiet unless they are named.
const NOISIEST: &str = "trace,hyper=trace,hyper_util=trace,h2=trace,rustls=trace,tokio_rustls=trace,notify=trace";
const VERIFIER: &str = "verifier-canary-dBjftJeZ4CVP-mB92K27uhbUJU1p";
const GATEWAY_KEY: &str = "gateway-key-canary-31d7c09be2";
const REGISTERED_SECRET: &str = "registered-secret-canary-41d0c9be";
const REGISTRATION_TOKEN: &str = "registration-token-canary-9f27ab3355";
const ADDED_SECRET: &str = "added-secret-canary-7be0d1c2";
/// What credentials are sealed by, and what somebody has typed in its place.
const STORE_KEY: &str = "store-key-canary-5Jt0pXw8Lr2Zq7Nd";
const PASSPHRASE: &str = "passphrase-canary of four words";
const TOTP: &str = "totp-canary-27182818";
const CLIENTS_OWN: &str = "clients-own-token-canary-55e2b1";

/// A text in the ways in which it could have been written by accident.
fn writings(secret: &str) -> Vec<(&'static str, String)> {
    let bytes = secret.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    let numbers = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let form: String = form_urlencoded::byte_serialize(bytes).collect();
    let mut writings = vec![
        ("as it is", secret.to_owned()),
        ("reversed", secret.chars().rev().collect()),
        ("in capitals", secret.to_uppercase()),
        ("in hex", hex.clone()),
        ("in capital hex", hex.to_uppercase()),
        ("percent-encoded", percent),
        ("as a form's value", form),
        ("as a list of numbers", numbers),
    ];
    for skipped in 0..3 {
        // wherever it stood in what was encoded, two of three bytes' borders can be told
        let whole = &bytes[skipped..];
        let whole = &whole[..whole.len() / 3 * 3];
        writings.push(("in base64", BASE64_STANDARD_NO_PAD.encode(whole)));
        writings.push(("in base64url", BASE64_URL_SAFE_NO_PAD.encode(whole)));
    }
    writings
}

/// The part of a secret that is like no other: a JWT begins as all do, and any half of a secret is too much.
fn tell_tale(secret: &str) -> Vec<&str> {
    if secret.len() <= 48 {
        return vec![secret];
    }
    let middle = secret.len() / 2;
    vec![&secret[secret.len() - 24..], &secret[middle - 12..middle + 12]]
}

/// The files that the story itself keeps secrets in.
fn is_given(path: &Path) -> bool {
    const GIVEN: [&str; 4] = ["secret-of-the-client", "key-of-the-store", "key-of-the-gateway", "added.client-secret"];
    GIVEN.iter().any(|name| path.ends_with(name))
}

/// What was heard, and where.
#[derive(Default)]
struct Heard(Vec<(String, String)>);

impl Heard {
    fn note(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    fn command(&mut self, home: &Home, arguments: &[&str], input: &str) {
        let mut command = home.valetd(arguments);
        command.env("RUST_LOG", NOISIEST);
        let file = home.path("input");
        fs::write(&file, input).expect("written");
        let output = command.stdin(fs::File::open(&file).expect("opened")).output().expect("valetd runs");
        fs::remove_file(file).expect("removed");
        self.note(format!("valetd {arguments:?}"), words(&output));
    }

    fn daemon(&mut self, daemon: &Daemon<'_>) {
        for path in ["/v1/status", "/metrics", "/healthz", "/readyz", "/v1/accounts/pw", "/nonsense"] {
            if let Ok(answer) = daemon.control("GET", path) {
                self.note(path, format!("{:?}{}", answer.headers, answer.text()));
            }
        }
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{}/{file}", daemon.child.id());
            // another process of this user may not even read the latter
            self.note(
                &path,
                fs::read(&path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default(),
            );
        }
    }

    /// Everything below a folder but the store's own records.
    fn files(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let is_record = path.extension().is_some_and(|end| end == "json") && folder.ends_with("state/valetd");
            if path.is_dir() {
                self.files(&path);
            } else if path.is_file() && !is_record && !is_given(&path) {
                let text = fs::read(&path).expect("a file of ours");
                self.note(path.display().to_string(), String::from_utf8_lossy(&text).into_owned());
            }
        }
    }

    /// The store's own files, while they are sealed.
    fn sealed_files(&mut self, home: &Home) {
        for entry in fs::read_dir(home.path("state/valetd")).expect("a folder").flatten() {
            let text = fs::read(entry.path()).unwrap_or_default();
            self.note(entry.path().display().to_string(), String::from_utf8_lossy(&text).into_owned());
        }
    }

    /// Where one of these stands, in words that do not repeat it.
    fn search(&self, secrets: &[String]) -> Option<String> {
        for secret in secrets {
            for part in tell_tale(secret) {
                for (how, writing) in writings(part) {
                    for (place, text) in &self.0 {
                        if let Some(at) = text.find(&writing) {
                            let line = text[..at].lines().last().unwrap_or_default();
                            let kind = &secret[..secret.len().min(6)];
                            return Some(format!("a secret ({kind}...) stands {how} in {place}, after: {line}"));
                        }
                    }
                }
            }
        }
        None
    }
}

fn config(gdh: &Server, gbdx: &Server) -> String {
    /// On its way to whatever stands before the token endpoints.
    const GATEWAY: &str = "token_request = { headers = { x-gateway-key = { file = \"../../key-of-the-gateway\" } } }\n";
    format!(
        "listen = [\"127.0.0.1:0\"]\nstore.seal = {{ file = \"../../key-of-the-store\" }}\n\
         [account.id]\ntoken_endpoint = \"{}\"\nrevocation_endpoint = \"{}\"\nclient_id = \"lab\"\n\
         client_auth = \"post\"\nclient_secret = {{ file = \"../../secret-of-the-client\" }}\n\
         header = \"Authorization: {{id_token}}\"\nupstream = \"{}\"\nrenew = {{ minimum_spacing = \"10ms\" }}\n{GATEWAY}\
         sign_in = [\"paste\"]\nlogin_page = \"{}/login?response_type=code\"\n\
         redirect_uri = \"https://lab.example/code\"\n\
         [account.basic]\ntoken_endpoint = \"{}\"\nclient_id = \"lab\"\nclient_auth = \"basic\"\n\
         client_secret = {{ command = [\"cat\", \"{{SECRET}}\"] }}\nupstream = \"{}\"\n\
         renew = {{ minimum_spacing = \"10ms\" }}\n{GATEWAY}\
         [account.pw]\ntoken_endpoint = \"{}\"\nkeep_password = true\nsign_in = [\"password\"]\nupstream = \"{}\"\n\
         renew = {{ minimum_spacing = \"10ms\" }}\n{GATEWAY}",
        gdh.token_endpoint(),
        gdh.revocation_endpoint().expect("it has one"),
        gdh.url(),
        gdh.url(),
        gbdx.token_endpoint(),
        gbdx.url(),
        gbdx.token_endpoint(),
        gbdx.url(),
    )
}

/// A server that registers clients, and that knows no token.
fn registrar() -> Documents {
    let registrar = Documents::start();
    let uri = format!("{}/register/x", registrar.url());
    let registered = json!({"client_id": "reg", "client_secret": REGISTERED_SECRET,
        "token_endpoint_auth_method": "client_secret_post", "registration_access_token": REGISTRATION_TOKEN,
        "registration_client_uri": uri});
    registrar.put_with("/register", 201, "", registered);
    registrar.put_with("/register/x", 403, "", json!({"error": REGISTRATION_TOKEN}));
    let description = format!("no such client {REGISTERED_SECRET}");
    registrar.put_with("/token", 401, "", json!({"error": "invalid_client", "error_description": description}));
    registrar
}

/// A server that says in its error what it was sent.
fn tell_tales(server: &Server) -> Vec<Behaviour> {
    let secret = server.newest_refresh_token();
    let token = server.secrets().iter().rfind(|secret| secret.contains('.')).expect("a token was issued").clone();
    let (encoded, status) =
        (BASE64_URL_SAFE_NO_PAD.encode(&secret), |status, body| Behaviour::Status(status, body, vec![]));
    let error = |description: &str| json!({"error": "invalid_request", "error_description": description}).to_string();
    vec![
        status(400, error(&format!("unknown token {secret}"))),
        status(400, error(&format!("unknown token {encoded}, client {CLIENT_SECRET}, key {GATEWAY_KEY}"))),
        status(400, json!({"error": GATEWAY_KEY}).to_string()),
        status(400, json!({"error": secret}).to_string()),
        status(500, format!("<html>{secret} {CLIENT_SECRET}</html>")),
        Behaviour::Malformed(format!("{{\"access_token\":\"{token}\",\"error\":\"{secret}\"}}")),
        Behaviour::Malformed(json!({"access_token": format!("{token}\r\nX: y"), "token_type": "Bearer"}).to_string()),
        Behaviour::Malformed(json!({"access_token": token, "token_type": secret}).to_string()),
        Behaviour::Malformed(json!({"access_token": [token]}).to_string()),
        Behaviour::Malformed(format!("{{\"access_token\": \"{token}")),
        Behaviour::ResetAfter,
        Behaviour::Status(302, String::new(), vec![("location".into(), format!("http://evil.example/?t={secret}"))]),
        Behaviour::Status(429, String::new(), vec![("retry-after".into(), secret.clone())]),
    ]
}

#[test]
fn no_secret_is_found_in_anything_that_can_be_seen() {
    let rotating = Options { rotation: Rotation::Grace(std::time::Duration::from_secs(60)), ..Options::default() };
    let (gdh, gbdx) = (Server::start(Provider::Gdh, rotating), Server::start(Provider::Gbdx, rotating));
    let home = Home::empty();
    let secret_file = home.path("secret-of-the-client");
    fs::write(&secret_file, CLIENT_SECRET).expect("written");
    fs::write(home.path("key-of-the-gateway"), GATEWAY_KEY).expect("written");
    home.write_config(&config(&gdh, &gbdx).replace("{SECRET}", &secret_file.display().to_string()));
    fs::write(home.path("key-of-the-store"), STORE_KEY).expect("written");
    fs::set_permissions(home.path("key-of-the-store"), fs::Permissions::from_mode(0o600)).expect("mode 0600");
    let mut heard = Heard::default();

    // the shell lets it leave a core, which it must not take
    let shell = ["sh", "-c", "ulimit -c unlimited; exec \"$0\" \"$@\""];
    let mut command = home.valetd_by(&shell, &["run", "--log", NOISIEST]);
    command.current_dir(home.path(""));
    let mut daemon = home.start_as(command);
    let address = daemon.status()["daemon"]["listen"][0].as_str().expect("one").to_owned();

    // sign in, in every way, also wrongly
    // one with a verifier at hand
    let until = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + 300;
    let pending = json!({"state": "s", "verifier": VERIFIER, "until": until}).to_string();
    fs::write(home.path("state/valetd/id.sign-in.json"), pending).expect("written");
    heard.command(&home, &["login", "id", "--code", "not-a-code-at-all"], "");
    assert!(!home.path("state/valetd/id.sign-in.json").exists(), "the verifier was used");
    heard.command(&home, &["login", "pw", "--username", USERNAME, "--password-stdin"], "wrong password of mine");
    heard.command(&home, &["login", "id", "--code", &gdh.mint_code()], "");
    heard.command(&home, &["login", "pw", "--username", USERNAME, "--password-stdin"], PASSWORD);
    heard.command(&home, &["login", "basic", "--refresh-token-stdin"], gbdx.sign_in().expose());
    for account in ["id", "pw", "basic"] {
        daemon.until(account, "usable");
    }

    // a client that registers itself at a server that repeats its secrets, and a secret that `add` asks for
    let registrar = registrar();
    let registering = format!(
        "[account.reg]\ntoken_endpoint = \"{0}/token\"\nregistration_endpoint = \"{0}/register\"\n\
         client = \"register\"\nupstream = \"{0}\"\n",
        registrar.url()
    );
    let text = fs::read_to_string(home.path("config/valetd/config.toml")).expect("a configuration");
    home.write_config(&(text + &registering));
    heard.command(&home, &["login", "reg", "--refresh-token-stdin", "--untried"], "rt-of-a-person");
    assert!(registrar.asked().iter().any(|(_, body)| body.contains(REGISTERED_SECRET)), "it was used");
    let add = ["add", "added", "gmail", "--client-id", "x", "--client-secret-stdin", "--no-input"];
    heard.command(&home, &add, ADDED_SECRET);
    assert!(home.path("config/valetd/added.client-secret").exists());
    // sealed, locked and opened, also wrongly
    for arguments in [&["seal", "on"][..], &["seal", "rotate"], &["seal", "--json"], &["lock", "--all"], &["unlock"]] {
        heard.command(&home, arguments, "");
    }
    assert_eq!(daemon.status()["daemon"]["store"]["source"], "file");
    heard.sealed_files(&home);
    let client = heard.0.iter().find(|(place, _)| place.ends_with("reg.client.json")).expect("it is sealed");
    assert!(client.1.contains("\"client_id\": \"reg\"") && client.1.contains("sealed"), "{}", client.1);
    heard.command(&home, &["unlock", "--passphrase-stdin"], PASSPHRASE);
    heard.command(&home, &["unlock", "--recovery-stdin"], PASSPHRASE);
    for account in ["id", "pw", "basic"] {
        daemon.until(account, "usable");
    }

    // requests, with credentials of their own, good and bad
    let own = format!("Bearer {CLIENTS_OWN}");
    for path in ["/id/ping", "/id/echo?q=1", "/pw/auth/v1/validate_token", "/basic/echo", "/nowhere/x", "/id/missing"] {
        for headers in [vec![], vec![("Authorization", own.as_str()), ("Proxy-Authorization", own.as_str())]] {
            let answer = send(&address, "GET", path, &headers, b"").expect("an answer");
            assert!(answer.status < 500, "{path}: {}", answer.text());
            heard.note(path, format!("{:?}{}", answer.headers, answer.text()));
        }
    }
    let foreign = send(&address, "GET", "/id/ping", &[("Host", "evil.example"), ("Authorization", &own)], b"");
    heard.note("a refusal", foreign.expect("an answer").text());

    // revoked access tokens, then everything that a token endpoint can do wrong
    for server in [&gdh, &gbdx] {
        server.revoke_access_tokens();
    }
    assert_eq!(get(&address, "/id/ping").expect("an answer").status, 200);
    for (account, server) in [("id", &gdh), ("pw", &gbdx), ("basic", &gbdx)] {
        for behaviour in tell_tales(server) {
            server.behave(behaviour, Some(1));
            let requests = daemon.account(account)["token_requests"].as_u64();
            let _ = daemon.control("POST", &format!("/v1/accounts/{account}/refresh"));
            eventually("it has been asked", || {
                (daemon.account(account)["token_requests"].as_u64() > requests).then_some(())
            });
            heard.daemon(&daemon);
            heard.command(&home, &["status"], "");
        }
        server.behave(Behaviour::Normal, None);
        let _ = daemon.control("POST", &format!("/v1/accounts/{account}/refresh"));
        daemon.until(account, "usable");
    }
    heard.command(&home, &["refresh", "pw"], "");
    heard.command(&home, &["check"], "");
    heard.command(&home, &["status", "--json"], "");

    // a sign-in that the server has ended; a sign-out
    gdh.revoke_refresh_tokens();
    let _ = daemon.control("POST", "/v1/accounts/id/refresh");
    daemon.until("id", "sign-in-required");
    heard.command(&home, &["refresh", "id"], "");
    heard.command(&home, &["logout", "id"], "");
    heard.command(&home, &["logout", "pw"], "");
    heard.command(&home, &["remove", "reg"], "");
    let answer = get(&address, "/pw/x").expect("an answer");
    assert_eq!(answer.status, 503);
    heard.note("503", answer.text());
    heard.daemon(&daemon);

    let status = daemon.signal("ABRT");
    assert!(status.signal().is_some() && !status.core_dumped(), "{status}");
    heard.files(&home.path(""));
    let log = heard.0.iter().find(|(place, _)| place.ends_with("daemon.log")).expect("the log was heard");
    assert!(log.1.contains(" debug ") && log.1.len() > 5_000, "the log has {} bytes", log.1.len());

    let mut secrets = gdh.secrets();
    secrets.extend(gbdx.secrets());
    secrets.extend(
        [
            PASSWORD,
            CLIENT_SECRET,
            GATEWAY_KEY,
            STORE_KEY,
            PASSPHRASE,
            CLIENTS_OWN,
            VERIFIER,
            REGISTERED_SECRET,
            REGISTRATION_TOKEN,
            ADDED_SECRET,
            "wrong password of mine",
        ]
        .map(str::to_owned),
    );
    let bytes: usize = heard.0.iter().map(|(_, text)| text.len()).sum();
    eprintln!("{} secrets looked for in {} places, {bytes} bytes", secrets.len(), heard.0.len());
    assert!(heard.search(&[USERNAME.to_owned()]).is_some(), "who is signed in is no secret, and proves the search");
    assert_eq!(heard.search(&secrets), None);
}

/// What another process of this user can see of a command in a terminal: its arguments, and with luck its environment.
fn note_processes(heard: &mut Heard) {
    for entry in fs::read_dir("/proc").expect("processes").flatten() {
        let path = entry.path();
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains("valetd\0login") {
            for file in ["cmdline", "environ"] {
                let text = fs::read(path.join(file)).unwrap_or_default();
                heard.note(format!("{}/{file}", path.display()), String::from_utf8_lossy(&text).into_owned());
            }
        }
    }
}

#[test]
fn no_secret_of_a_sign_in_is_found_on_its_terminal_its_page_or_anywhere_else() {
    let server = Server::start(Provider::OpenId, Options::default());
    let url = server.url();
    let home_config = format!(
        "listen = []\n[account.lab]\ntoken_endpoint = \"{url}/token\"\nauthorization_endpoint = \"{url}/authorize\"\n\
         pushed_authorization_endpoint = \"{url}/par\"\nrevocation_endpoint = \"{url}/revoke\"\n\
         device_authorization_endpoint = \"{url}/device_authorization\"\nuserinfo_endpoint = \"{url}/userinfo\"\n\
         client_id = \"lab\"\nscopes = [\"openid\"]\nsign_in = [\"browser\"]\nidentity = \"userinfo\"\n\
         device_pkce = true\nupstream = \"{url}\"\n"
    );
    let home = Home::with(&home_config);
    let mut heard = Heard::default();
    let daemon = home.start_as(home.valetd(&["run", "--log", NOISIEST]));
    let login = |options: &str| format!("env RUST_LOG={NOISIEST} '{VALETD}' login lab {options}");

    // a browser that comes back by itself; the server repeats in its error what it was sent, and then does as it should
    for says_too_much in [true, false] {
        let mut terminal = Terminal::open(&home, &login("--no-browser"));
        terminal.until("in a browser:");
        terminal.until("http://");
        let page = format!("http://{}", terminal.until("\r\n"));
        terminal.until("Or paste the address");
        note_processes(&mut heard);
        let went = |url: &str| {
            let (address, target) = url["http://".len()..].split_at(url["http://".len()..].find('/').expect("a path"));
            send(address, "GET", target, &[("Sec-Fetch-Mode", "navigate")], b"").expect("an answer")
        };
        let back = went(&page).header("location").expect("it sends the browser back").to_owned();
        if says_too_much {
            let code = server.secrets().last().expect("the code").clone();
            let body = json!({"error": "invalid_grant", "error_description": format!("code {code} is spent")});
            server.behave(Behaviour::Status(400, body.to_string(), vec![]), Some(1));
        }
        let redirect = went(&back);
        heard.note("the redirect to the last page", format!("{:?}{}", redirect.headers, redirect.text()));
        let last =
            format!("{}{}", &back[..back.find("/callback").expect("ours")], redirect.header("location").expect("on"));
        heard.note("the last page", went(&last).text());
        let (code, screen) = terminal.exit();
        assert_eq!(code, Some(i32::from(says_too_much)), "{screen}");
        heard.note("the terminal of a browser", screen);
    }

    // a device, whose code the server repeats in an error
    let mut terminal = Terminal::open(&home, &login("--device --qr"));
    terminal.until("WDJB-MJHT");
    note_processes(&mut heard);
    let code = server.secrets().last().expect("the device code").clone();
    let body = json!({"error": "invalid_request", "error_description": format!("device code {code}")});
    server.behave(Behaviour::Status(400, body.to_string(), vec![]), Some(1));
    heard.note("the terminal of a device that fails", terminal.exit().1);
    let terminal = Terminal::open(&home, &login("--device"));
    heard.note("the terminal of a device", terminal.exit().1);
    daemon.until("lab", "usable");
    heard.command(&home, &["login", "lab", "--check"], "");

    // a password with a one-time password, which the server repeats in an error, and then takes
    let by_password = home_config.replace("[\"browser\"]", "[\"password\"]\npassword_otp = \"totp\"");
    home.write_config(&by_password.replace("identity = \"userinfo\"\n", ""));
    server.change_manners(|manners| manners.totp = Some(TOTP.to_owned()));
    for says_too_much in [true, false] {
        let mut terminal = Terminal::open(&home, &login(&format!("--switch-user --username {USERNAME}")));
        terminal.answer("Password of", PASSWORD);
        terminal.until("One-time password");
        note_processes(&mut heard);
        if says_too_much {
            let body =
                json!({"error": "invalid_grant", "error_description": format!("{TOTP} is spent, and {PASSWORD}")});
            server.behave(Behaviour::Status(400, body.to_string(), vec![]), Some(1));
        }
        terminal.type_line(TOTP);
        let (code, screen) = terminal.exit();
        assert_eq!(code, Some(i32::from(says_too_much)), "{screen}");
        heard.note("the terminal of a password", screen);
    }
    heard.daemon(&daemon);
    heard.files(&home.path(""));

    let secrets = server.secrets();
    assert!(secrets.iter().any(|secret| secret == TOTP), "it was sent");
    let verifiers = secrets.iter().filter(|secret| secret.len() == 43 && !secret.contains('.')).count();
    assert!(verifiers >= 2 && secrets.len() > 10, "{verifiers} verifiers, {} secrets", secrets.len());
    assert!(heard.search(&["ada@example.org".to_owned()]).is_some(), "who is signed in proves the search");
    assert_eq!(heard.search(&secrets), None);
}

#[test]
fn the_password_of_a_commands_proxy_is_in_its_environment_alone() {
    let scene = Scene::new("require_key = true");
    let daemon = scene.start();
    let mut heard = Heard::default();
    let told = scene.home().path("told");
    let script = format!(
        "printf %s \"$https_proxy\" > {}; curl -sS -D - {url}; curl -sSik https://api.example/nowhere; \
         curl -sS http://api.example/x; curl -sSik https://elsewhere.example/; tr '\\0' ' ' < /proc/$PPID/cmdline",
        told.display(),
        url = "https://api.example/catalog"
    );
    let mut exec = scene.exec(&["-r", "api", "--intercept", "-v", "--", "sh", "-c", &script]);
    let output = exec.env("RUST_LOG", NOISIEST).output().expect("valetd runs");
    let proxy = fs::read_to_string(&told).expect("it was told");
    fs::remove_file(told).expect("removed");
    let (login, _) = proxy.split_once('@').expect("a login");
    let (_, password) = login.rsplit_once(':').expect("a password");
    assert!(password.len() >= 16, "{} characters", password.len());
    assert!(words(&output).contains("api.example"), "it says what went where: {}", words(&output));
    heard.note("exec -v", words(&output));
    heard.daemon(&daemon);
    heard.files(&scene.home().path(""));
    assert_eq!(heard.search(&[password.to_owned()]), None);
}

#[test]
fn the_search_finds_what_is_there() {
    let secret = "a-planted-secret-0123456789abcdef";
    for (how, writing) in writings(secret) {
        let mut heard = Heard::default();
        heard.note("here", format!("level=trace body=\"{writing}\""));
        assert!(heard.search(&[secret.to_owned()]).is_some(), "{how}");
    }
}
