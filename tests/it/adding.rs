//! From a name or an address to an account, and back.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use valetd::stand_in::{Options, Provider};

use crate::support::disk::SmallDisk;
use crate::support::documents::Documents;
use crate::support::lab::Server;
use crate::support::terminal::Terminal;
use crate::support::{Home, VALETD, eventually, mode, words};

const HEAD: &str = "# mine\nlisten = [\"127.0.0.1:0\"] # any\n\n# the good one\n[account.work]\nprovider = \"gbdx\"\n";

#[test]
fn a_provider_is_added_with_what_it_asks_for_and_removed_without_a_trace() {
    let home = Home::with(HEAD);
    let output = home.run(&["add", "hub", "github", "--client-id", "Iv1.0", "--no-input"]);
    let said = words(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("/hub/  ->  https://api.github.com") && said.contains("login hub"), "{said}");
    let block = "[account.hub]\nprovider = \"github\"\nclient_id = \"Iv1.0\"\n";
    assert_eq!(config(&home), format!("{HEAD}\n{block}"));
    assert!(home.run(&["check"]).status.success());
    // not twice, and not of what nobody knows
    let again = home.run(&["add", "hub", "github", "--client-id", "x", "--no-input"]);
    assert_eq!(again.status.code(), Some(2), "{}", words(&again));
    let unknown = home.run(&["add", "x", "githup"]);
    assert!(
        unknown.status.code() == Some(2) && words(&unknown).contains("did you mean \"github\"?"),
        "{}",
        words(&unknown)
    );
    // what is missing is said with where it is found
    let missing = home.run(&["add", "y", "github", "--no-input"]);
    let said = words(&missing);
    assert!(
        missing.status.code() == Some(2) && said.contains("--client-id is missing: github.com/settings/apps"),
        "{said}"
    );
    // what would not do is not written
    let bad = home.run(&["add", "z", "gbdx", "--upstream", "http://elsewhere.example", "--no-input"]);
    assert!(bad.status.code() == Some(1) && words(&bad).contains("stays as it was"), "{}", words(&bad));
    let named = format!("{}: account.z.upstream: is plain http", home.path("config/valetd/config.toml").display());
    assert!(words(&bad).contains(&named) && !words(&bad).contains("valetd-new"), "{}", words(&bad));
    assert_eq!(config(&home), format!("{HEAD}\n{block}"));
    for (address, expected) in [
        ("https://mcp.lab.example/mcp?key=1", "the address has a query"),
        ("https://mcp.lab.example/a/../mcp", "the address has a dot segment in its path"),
    ] {
        let refused = home.run(&["add", "z", address, "--client-id", "x", "--no-input"]);
        let said = words(&refused);
        assert!(refused.status.code() == Some(2) && said.contains(expected) && !said.contains("valetd-new"), "{said}");
    }
    assert_eq!(fs::read_dir(home.path("config/valetd")).expect("a folder").count(), 1, "nothing is left beside it");
    let removed = home.run(&["remove", "hub"]);
    assert!(removed.status.success(), "{}", words(&removed));
    assert_eq!(config(&home).trim_end(), HEAD.trim_end());
}

#[test]
fn without_a_configuration_add_writes_a_first_one_for_its_owner_alone() {
    let home = Home::empty();
    let output = home.run(&["add", "gbdx", "gbdx", "--no-input"]);
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(config(&home), "[account.gbdx]\nprovider = \"gbdx\"\n");
    assert_eq!(mode(&home.path("config/valetd/config.toml")), 0o600);
}

#[test]
fn a_route_of_the_provider_that_another_account_has_is_told_with_the_way_to_have_it() {
    let head = format!("{HEAD}\n[route.eo-zipper]\naccount = \"work\"\nupstream = \"https://geobigdata.io/zip\"\n");
    let home = Home::with(&head);
    let output = home.run(&["add", "eo", "cdse", "--no-input"]);
    let said = words(&output);
    assert!(output.status.success() && said.contains("/eo-catalogue/  ->  "), "{said}");
    let expected = "eo: the provider's route eo-zipper to https://zipper.dataspace.copernicus.eu is missing, as \
                    [route.eo-zipper] has the token of work; to have it, give that route another name, or add a \
                    [route.NAME] with account = \"eo\" and upstream = \"https://zipper.dataspace.copernicus.eu\"";
    assert!(said.contains(expected) && !said.contains("route eo-catalogue to"), "{said}");
}

#[test]
fn a_configuration_that_is_a_link_stays_one_also_where_its_file_is_not_there_yet() {
    let home = Home::empty();
    let (path, real) = (home.path("config/valetd/config.toml"), home.path("dots/valetd.toml"));
    std::os::unix::fs::symlink(&real, &path).expect("a link");
    let add = |name: &str| home.run(&["add", name, "gbdx", "--no-input"]);
    let refused = add("one");
    let said = words(&refused);
    assert!(refused.status.code() == Some(1) && said.contains("is a link that leads nowhere"), "{said}");
    assert!(said.contains("make the folder that it leads to"), "{said}");
    assert!(path.is_symlink() && !home.path("dots").exists());
    fs::create_dir(home.path("dots")).expect("a folder");
    for name in ["one", "two"] {
        let output = add(name);
        assert!(output.status.success(), "{}", words(&output));
        assert!(path.is_symlink(), "{name}: the link was replaced");
    }
    let text = fs::read_to_string(&real).expect("it is there");
    assert!(text.contains("[account.one]") && text.contains("[account.two]"), "{text}");
    assert!(home.run(&["remove", "one"]).status.success());
    assert!(path.is_symlink() && !fs::read_to_string(&real).expect("it is there").contains("[account.one]"));
}

#[test]
fn what_a_provider_asks_for_is_asked_at_the_terminal_and_a_secret_is_not_shown() {
    let home = Home::with(HEAD);
    let mut terminal = Terminal::open(&home, &format!("'{VALETD}' add mail gmail"));
    let before = terminal.answer("  > ", "me.apps.googleusercontent.com");
    assert!(before.contains("client_id: console.cloud.google.com"), "{before}");
    terminal.answer("client_secret (not shown): ", "GOCSPX-hunter2");
    terminal.answer("Sign in now? [Y/n] ", "\x03");
    terminal.until("the account is added; sign in with: ");
    terminal.until("login mail");
    let (code, shown) = terminal.exit();
    assert_eq!(code, Some(130), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let text = config(&home);
    assert!(
        text.ends_with("client_secret = { file = \"mail.client-secret\" }\n") && !text.contains("hunter2"),
        "{text}"
    );
    let secret = home.path("config/valetd/mail.client-secret");
    assert_eq!((mode(&secret), fs::read_to_string(&secret).expect("a secret")), (0o600, "GOCSPX-hunter2\n".to_owned()));
    assert!(home.run(&["remove", "mail"]).status.success());
    assert!(!secret.exists());
    // from standard input, for scripts
    let output = home.run_with_input(
        &["add", "mail", "gmail", "--client-id", "x", "--client-secret-stdin", "--no-input"],
        "GOCSPX-hunter2\n",
    );
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(fs::read_to_string(&secret).expect("a secret"), "GOCSPX-hunter2\n");
}

#[test]
fn accounts_that_are_added_and_removed_at_once_are_all_in_the_file() {
    let home = Home::with("listen = []\n");
    let at_once = |commands: Vec<Vec<String>>| {
        let start = |words: &Vec<String>| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            home.valetd(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("valetd runs")
        };
        let started: Vec<_> = commands.iter().map(start).collect();
        for child in started {
            let output = child.wait_with_output().expect("it ends");
            assert!(output.status.success(), "{}", words(&output));
        }
    };
    let add = |name: &str| ["add", name, "gbdx", "--no-input"].map(str::to_owned).to_vec();
    let remove = |name: &str| ["remove", name].map(str::to_owned).to_vec();
    at_once((0..6).map(|number| add(&format!("a{number}"))).collect());
    let has = |name: &str| config(&home).contains(&format!("[account.{name}]"));
    assert!((0..6).all(|number| has(&format!("a{number}"))), "{}", config(&home));
    at_once(vec![add("b0"), remove("a0"), add("b1"), remove("a1")]);
    assert!(has("b0") && has("b1") && has("a2") && !has("a0") && !has("a1"), "{}", config(&home));
    assert_eq!(fs::read_dir(home.path("config/valetd")).expect("a folder").count(), 1, "nothing is left beside it");
}

#[test]
fn line_ends_and_a_byte_order_mark_of_the_file_stay() {
    let dos = format!("\u{feff}{}", HEAD.replace('\n', "\r\n"));
    let home = Home::with(&dos);
    let output = home.run(&["add", "hub", "github", "--client-id", "Iv1.0", "--no-input"]);
    assert!(output.status.success(), "{}", words(&output));
    let block = "\r\n[account.hub]\r\nprovider = \"github\"\r\nclient_id = \"Iv1.0\"\r\n";
    assert_eq!(config(&home), format!("{dos}{block}"));
    assert!(home.run(&["remove", "hub"]).status.success());
    assert_eq!(config(&home), dos);
}

#[test]
fn a_secret_that_another_account_names_stays_and_one_that_is_there_is_not_written_over() {
    let home = Home::with("listen = []\n");
    let secret = |name: &str| fs::read_to_string(home.path("config/valetd").join(name)).ok();
    fs::write(home.path("config/valetd/mail.client-secret"), "somebody's\n").expect("written");
    let add = |name: &str, input: &str| {
        let with = ["add", name, "gmail", "--client-id", "x", "--client-secret-stdin", "--no-input"];
        let output = home.run_with_input(&with, input);
        assert!(output.status.success(), "{}", words(&output));
    };
    add("mail", "hunter2");
    assert_eq!(secret("mail.client-secret").as_deref(), Some("somebody's\n"));
    assert_eq!(secret("mail.client-secret.2").as_deref(), Some("hunter2\n"));
    add("post", "hunter3");
    let shares = config(&home).replace("post.client-secret", "mail.client-secret.2");
    home.write_config(&shares);
    assert!(home.run(&["remove", "mail"]).status.success());
    assert_eq!(secret("mail.client-secret.2").as_deref(), Some("hunter2\n"), "post names it");
    assert_eq!(secret("mail.client-secret").as_deref(), Some("somebody's\n"), "it was never ours");
    // what cannot be written leaves no secret behind
    let bad = ["add", "z", "gmail", "--client-id", "x", "--client-secret-stdin", "--upstream", "http://e.example"];
    let output = home.run_with_input(&[&bad[..], &["--no-input"]].concat(), "hunter4");
    assert!(output.status.code() == Some(1) && secret("z.client-secret").is_none(), "{}", words(&output));
}

#[test]
fn an_api_that_names_its_server_is_added_from_its_address_registers_itself_and_is_taken_back() {
    let server = Server::start(Provider::Gdh, Options::default());
    let documents = Documents::start();
    let url = documents.url();
    mcp(&documents, &server);
    let home = Home::with("listen = [\"127.0.0.1:0\"]\n");
    let daemon = home.start();
    let output = home.run(&["add", "notes", &format!("{url}/mcp"), "--no-input"]);
    let said = words(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("names its authorization server"), "{said}");
    let expected = format!(
        "listen = [\"127.0.0.1:0\"]\n\n[account.notes]\nissuer = \"{url}\"\nclient = \"register\"\n\
         scopes = [\"mcp:read\", \"offline_access\"]\nsign_in = [\"browser\"]\n\
         redirect = \"http://127.0.0.1:8254/callback\"\nauthorize = {{ prompt = \"consent\" }}\n\
         resource = \"{url}/mcp\"\nupstream = \"{url}\"\n\n[route.notes]\nmcp = \"/mcp\"\n"
    );
    assert_eq!(config(&home), expected);
    assert!(!documents.asked().iter().any(|(line, _)| line == "POST /register"), "nobody signs in yet");
    let token = server.sign_in();
    let login = ["login", "notes", "--refresh-token-stdin", "--untried"];
    let output = home.run_with_input(&login, token.expose());
    assert!(output.status.success(), "{}", words(&output));
    let asked = documents.asked();
    let (_, registration) = asked.iter().find(|(line, _)| line == "POST /register").expect("it registers");
    let registration: Value = serde_json::from_str(registration).expect("JSON");
    assert_eq!(registration["application_type"], "native");
    assert_eq!(registration["token_endpoint_auth_method"], "none");
    assert_eq!(registration["redirect_uris"], json!(["http://127.0.0.1:8254/callback"]));
    assert_eq!(registration["scope"], "mcp:read offline_access");
    daemon.until("notes", "usable");
    let record = fs::read_to_string(home.path("state/valetd/notes.json")).expect("a record");
    assert!(record.contains("client-of-notes"), "the refresh token is the registered client's: {record}");
    assert_eq!(mode(&home.path("state/valetd/notes.client.json")), 0o600);
    // the next sign-in is the same client's
    assert!(home.run_with_input(&login, server.sign_in().expose()).status.success());
    let registered = || documents.asked().iter().filter(|(line, _)| line == "POST /register").count();
    assert_eq!(registered(), 1);
    // and its end is the end of all of it
    let removed = home.run(&["remove", "notes"]);
    assert!(removed.status.success(), "{}", words(&removed));
    assert!(words(&removed).contains("revoked at the server"), "{}", words(&removed));
    assert_eq!(config(&home).trim_end(), "listen = [\"127.0.0.1:0\"]");
    assert!(documents.asked().iter().any(|(line, _)| line == "DELETE /register/client-of-notes"));
    let left: Vec<_> = fs::read_dir(home.path("state/valetd")).expect("a folder").flatten().collect();
    assert!(left.iter().all(|file| !file.file_name().to_string_lossy().starts_with("notes")), "{left:?}");
    eventually("the daemon has heard", || {
        daemon.status()["accounts"].as_array().expect("a list").is_empty().then_some(())
    });
}

#[test]
fn a_client_that_the_server_has_forgotten_is_registered_again_at_the_next_sign_in_alone() {
    let server = Server::start(Provider::Gdh, Options::default());
    let documents = Documents::start();
    mcp(&documents, &server);
    let home = Home::with("listen = [\"127.0.0.1:0\"]\n");
    assert!(home.run(&["add", "notes", &format!("{}/mcp", documents.url()), "--no-input"]).status.success());
    let login = |token: &str| home.run_with_input(&["login", "notes", "--refresh-token-stdin", "--untried"], token);
    assert!(login("an-old-one").status.success());
    // the token endpoint moves to one that knows nobody, on the same host
    documents.put_with("/token", 401, "", json!({"error": "invalid_client"}));
    documents
        .put("/.well-known/oauth-authorization-server", metadata(&documents, &format!("{}/token", documents.url())));
    fs::remove_file(home.path("state/valetd/notes.metadata.json")).expect("it was kept");
    assert!(login("an-old-one").status.success());
    let registered = || documents.asked().iter().filter(|(line, _)| line == "POST /register").count();
    assert_eq!(registered(), 1);
    let daemon = home.start();
    eventually("the daemon is refused", || (daemon.account("notes")["why_code"] == "client-refused").then_some(()));
    assert_eq!(registered(), 1, "a daemon registers nothing");
    let output = login("a-new-one");
    assert!(words(&output).contains("forgotten the client"), "{}", words(&output));
    assert_eq!(registered(), 2);
}

#[test]
fn a_client_that_is_refused_at_a_sign_in_stays_until_another_one_is_registered() {
    let server = Server::start(Provider::Gdh, Options::default());
    let documents = Documents::start();
    mcp(&documents, &server);
    let token = format!("{}/token", documents.url());
    documents.put_with("/token", 401, "", json!({"error": "invalid_client"}));
    documents.put("/.well-known/oauth-authorization-server", metadata(&documents, &token));
    let home = Home::with("listen = []\n");
    assert!(home.run(&["add", "notes", &format!("{}/mcp", documents.url()), "--no-input"]).status.success());
    let code = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let login = || words(&home.run(&["login", "notes", "--code", code]));
    let registered = || documents.asked().iter().filter(|(line, _)| line == "POST /register").count();
    let said = login();
    assert!(said.contains("another one is registered now: sign in again"), "{said}");
    assert_eq!(registered(), 2);
    let kept = || fs::read_to_string(home.path("state/valetd/notes.client.json")).expect("a client");
    let before = kept();
    documents.put_with("/register", 503, "", "");
    let said = login();
    assert!(said.contains("registers no other") && said.contains("answered 503"), "{said}");
    assert_eq!((registered(), kept()), (3, before));
    // what only quotes the code refuses no client
    documents.put_with("/token", 400, "", json!({"error": "invalid_grant", "error_description": "no invalid_client"}));
    let said = login();
    assert!(said.contains("invalid_grant") && !said.contains("registers no other"), "{said}");
    assert_eq!(registered(), 3);
}

#[test]
fn a_server_that_registers_no_client_for_device_codes_registers_one_without_them() {
    let server = Server::start(Provider::Gdh, Options::default());
    let refusal = json!({"error": "invalid_client_metadata"});
    const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
    let rows: [(&str, &[&str], usize, &str); 3] = [
        ("takes device codes", &[], 1, DEVICE),
        ("has glewlwyd's name for them", &[DEVICE], 2, "device_authorization"),
        ("has none", &["device_"], 3, ""),
    ];
    for (case, refused, asked, granted) in rows {
        let documents = Documents::start();
        mcp(&documents, &server);
        let url = documents.url();
        let mut with_devices = metadata(&documents, &server.token_endpoint());
        with_devices["device_authorization_endpoint"] = json!(format!("{url}/device"));
        documents.put("/.well-known/oauth-authorization-server", with_devices);
        refused.iter().for_each(|word| documents.put_to("/register", word, 400, &refusal));
        let home = Home::with("listen = []\n");
        assert!(home.run(&["add", "notes", &format!("{url}/mcp"), "--no-input"]).status.success());
        assert!(config(&home).contains("sign_in = [\"browser\", \"device\"]"), "{}", config(&home));
        let login = ["login", "notes", "--refresh-token-stdin", "--untried"];
        let output = home.run_with_input(&login, server.sign_in().expose());
        assert!(output.status.success(), "{case}: {}", words(&output));
        let registrations: Vec<String> =
            documents.asked().into_iter().filter(|(line, _)| line == "POST /register").map(|(_, body)| body).collect();
        assert_eq!(registrations.len(), asked, "{case}");
        let last: Value = serde_json::from_str(&registrations[asked - 1]).expect("JSON");
        let grants = last["grant_types"].as_array().expect("a list");
        assert_eq!(grants.get(2).and_then(Value::as_str).unwrap_or_default(), granted, "{case}");
    }
}

#[test]
fn a_client_that_was_registered_and_cannot_be_kept_is_taken_back_or_named() {
    let server = Server::start(Provider::Gdh, Options::default());
    let documents = Documents::start();
    mcp(&documents, &server);
    let home = Home::with("listen = []\n");
    assert!(home.run(&["add", "notes", &format!("{}/mcp", documents.url()), "--no-input"]).status.success());
    fs::create_dir(home.path("state/valetd/notes.client.json")).expect("what is in the way");
    let login = || words(&home.run_with_input(&["login", "notes", "--refresh-token-stdin", "--untried"], "r"));
    let said = login();
    assert!(said.contains("could not be kept") && said.contains("it was taken back at the server"), "{said}");
    let asked = documents.asked();
    assert!(asked.iter().any(|(line, _)| line == "DELETE /register/client-of-notes"), "{asked:?}");
    documents.put_with("/register", 201, "", json!({"client_id": "client-of-notes"}));
    let said = login();
    assert!(said.contains("the client \"client-of-notes\" stays registered at the server"), "{said}");
    assert!(!home.path("state/valetd/notes.json").exists());
}

#[test]
fn a_signal_at_any_moment_of_adding_leaves_all_of_it_or_nothing() {
    const STEPS: u32 = 30;
    let home = Home::with("listen = []\n");
    let add = |name: &str| {
        let with = ["add", name, "gmail", "--client-id", "x", "--client-secret-stdin", "--no-input"];
        let mut command = home.valetd(&with);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        let _ = child.stdin.take().expect("piped").write_all(b"hunter2\n"); // it may be gone already
        child
    };
    let begun = Instant::now();
    assert!(add("whole").wait().expect("it ends").success());
    let takes = begun.elapsed();
    let mut added = 0;
    for step in 0..STEPS {
        let name = format!("m{step}");
        let mut child = add(&name);
        std::thread::sleep(takes * step / (STEPS - 5));
        let signal = ["-INT", "-TERM", "-HUP"][step as usize % 3];
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status();
        let status = child.wait().expect("it ends");
        let is_in = config(&home).contains(&format!("[account.{name}]"));
        let has_secret = home.path(&format!("config/valetd/{name}.client-secret")).exists();
        assert_eq!(is_in, has_secret, "after {step} steps, {status}");
        added += usize::from(is_in);
    }
    let left = fs::read_dir(home.path("config/valetd")).expect("a folder").flatten();
    let left: Vec<_> = left.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(left.len(), 1 + 1 + added, "the file, and the secrets that it names: {left:?}");
    assert!(home.run(&["check"]).status.success());
}

#[test]
fn a_full_disk_leaves_the_file_as_it_was_and_no_secret_beside_it() {
    let home = Home::empty();
    let Some(disk) = SmallDisk::at(&home.path("config/valetd"), "64k") else { return };
    home.write_config("listen = []\n");
    // a file takes a page: with none left the secret cannot be written, with one the configuration cannot
    let fill = home.path("config/valetd/fill");
    let add = ["add", "mail", "gmail", "--client-id", "x", "--client-secret-stdin", "--no-input"];
    for pages_left in [0, 1] {
        let mut bytes = 128 * 4096;
        while fs::write(&fill, vec![b'x'; bytes]).is_err() {
            bytes -= 4096;
        }
        fs::write(&fill, vec![b'x'; bytes - pages_left * 4096]).expect("less than before");
        let output = home.run_with_input(&add, "hunter2");
        let said = words(&output);
        assert!(output.status.code() == Some(1) && said.contains("no storage space"), "{said}");
        let folder = fs::read_dir(&disk.folder).expect("a folder").flatten();
        let mut left: Vec<_> = folder.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        left.sort();
        assert_eq!(
            (left, config(&home)),
            (vec!["config.toml".to_owned(), "fill".to_owned()], "listen = []\n".to_owned())
        );
    }
    fs::remove_file(&fill).expect("removed");
    assert!(home.run_with_input(&add, "hunter2").status.success());
}

#[test]
fn an_openeo_back_end_is_added_with_the_client_that_it_offers_and_its_prefix() {
    let documents = Documents::start();
    let url = documents.url();
    documents.put(
        "/.well-known/openeo",
        json!({"versions": [{"url": format!("{url}/openeo/1.2"), "api_version": "1.2.0", "production": true},
                            {"url": format!("{url}/openeo/1.1"), "api_version": "1.1.0", "production": true}]}),
    );
    let clients = json!([{"id": "for-anybody", "redirect_urls": ["http://localhost:1410/"],
        "grant_types": ["authorization_code+pkce", "urn:ietf:params:oauth:grant-type:device_code+pkce"]}]);
    documents.put(
        "/openeo/1.2/credentials/oidc",
        json!({"providers": [{"id": "egi", "issuer": url, "title": "EGI", "scopes": ["openid"], "default_clients": clients},
                             {"id": "other", "issuer": url, "title": "Other"}]}),
    );
    let mut issuer = metadata(&documents, &format!("{url}/token"));
    issuer["device_authorization_endpoint"] = json!(format!("{url}/device"));
    documents.put("/.well-known/openid-configuration", issuer);
    let home = Home::with("listen = []\n");
    let output = home.run(&["add", "eo", &url, "--no-input"]);
    let said = words(&output);
    assert!(output.status.success() && said.contains("--openeo-provider: other"), "{said}");
    let expected = format!(
        "listen = []\n\n[account.eo]\nissuer = \"{url}\"\nclient_id = \"for-anybody\"\n\
         scopes = [\"openid\", \"offline_access\"]\nsign_in = [\"device\", \"browser\"]\n\
         redirect = \"http://localhost:1410/\"\nauthorize = {{ prompt = \"consent\" }}\ndevice_pkce = true\n\
         header = \"Authorization: Bearer oidc/egi/{{access_token}}\"\nupstream = \"{url}/openeo/1.2\"\n"
    );
    assert_eq!(config(&home), expected);
    let output = home.run(&["add", "eo2", &url, "--openeo-provider", "none", "--no-input"]);
    assert!(words(&output).contains("lists the providers egi, other"), "{}", words(&output));
}

#[test]
fn a_server_that_says_something_at_any_address_is_no_openeo_back_end_for_that() {
    let documents = Documents::start();
    let url = documents.url();
    documents.put("/.well-known/openeo", json!({"ok": true}));
    let resource = json!({"resource": format!("{url}/mcp"), "authorization_servers": [url]});
    documents.put("/.well-known/oauth-protected-resource/mcp", resource);
    documents.put("/.well-known/openid-configuration", metadata(&documents, &format!("{url}/token")));
    let home = Home::with("listen = []\n");
    let output = home.run(&["add", "notes", &format!("{url}/mcp"), "--client-id", "me", "--no-input"]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(config(&home).contains("[route.notes]\nmcp = \"/mcp\""), "{}", config(&home));
}

#[test]
fn a_host_that_answers_anything_or_is_an_openeo_back_end_elsewhere_is_what_else_it_says() {
    let documents = Documents::start();
    let url = documents.url();
    documents.put("/.well-known/openeo", json!({"ok": true, "path": "/.well-known/openeo"}));
    documents.put("/.well-known/openid-configuration", metadata(&documents, &format!("{url}/token")));
    let home = Home::with("listen = []\n");
    let output = home.run(&["add", "lab", &url, "--client-id", "me", "--upstream", &url, "--no-input"]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(config(&home).contains(&format!("[account.lab]\nissuer = \"{url}\"")), "{}", config(&home));
    // and a back-end's host may have more than that
    let versions = json!({"versions": [{"url": format!("{url}/openeo/1.2"), "api_version": "1.2.0"}]});
    documents.put("/.well-known/openeo", versions);
    let resource = json!({"resource": format!("{url}/mcp"), "authorization_servers": [url]});
    documents.put("/.well-known/oauth-protected-resource/mcp", resource);
    let output = home.run(&["add", "notes", &format!("{url}/mcp"), "--client-id", "me", "--no-input"]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(config(&home).contains("[route.notes]\nmcp = \"/mcp\""), "{}", config(&home));
    let missing = home.run(&["add", "eo", &format!("{url}/openeo/1.2"), "--no-input"]);
    assert!(words(&missing).contains("/openeo/1.2/credentials/oidc"), "{}", words(&missing));
}

#[test]
fn an_issuer_is_added_with_what_it_cannot_tell_and_an_address_that_tells_nothing_is_refused() {
    let documents = Documents::start();
    let url = documents.url();
    let home = Home::with("listen = []\n");
    let nothing = home.run(&["add", "lab", &url, "--no-input"]);
    let said = words(&nothing);
    assert!(nothing.status.code() == Some(1) && said.contains("answered 404"), "{said}");
    let bad = home.run(&["add", "lab", "http://elsewhere.example/mcp", "--no-input"]);
    assert!(bad.status.code() == Some(2) && words(&bad).contains("plain http"), "{}", words(&bad));
    documents.put(
        "/realms/x/.well-known/openid-configuration",
        json!({"issuer": format!("{url}/realms/x"),
        "token_endpoint": format!("{url}/t"), "device_authorization_endpoint": format!("{url}/d")}),
    );
    // with a slash too many, as people paste it
    let address = format!("{url}/realms/x/");
    let missing = home.run(&["add", "lab", &address, "--no-input"]);
    assert!(
        missing.status.code() == Some(2) && words(&missing).contains("--client-id is missing"),
        "{}",
        words(&missing)
    );
    let with = ["add", "lab", &address, "--client-id", "me", "--upstream", &url, "--scope", "a", "--no-input"];
    let output = home.run(&with);
    assert!(output.status.success(), "{}", words(&output));
    let expected = format!(
        "listen = []\n\n[account.lab]\nissuer = \"{url}/realms/x\"\nclient_id = \"me\"\nsign_in = [\"device\"]\n\
         upstream = \"{url}\"\nscopes = [\"a\"]\n"
    );
    assert_eq!(config(&home), expected);
    // what others say of this machine is not followed, and metadata of another issuer are not believed
    documents.put(
        "/realms/y/.well-known/openid-configuration",
        json!({"issuer": "https://login.example",
        "token_endpoint": format!("{url}/t")}),
    );
    let other = home.run(&["add", "y", &format!("{url}/realms/y"), "--no-input"]);
    assert!(words(&other).contains("names the issuer \"https://login.example\""), "{}", words(&other));
}

#[test]
fn a_name_that_is_a_route_of_another_account_is_refused_before_anything_is_written() {
    let written = format!("{HEAD}\n[route.lab]\nupstream = \"https://geobigdata.io/x\"\naccount = \"work\"\n");
    let home = Home::with(&written);
    // one that is written, and one that the provider of another account brings
    for name in ["lab", "work-rda"] {
        let output = home.run(&["add", name, "gbdx", "--no-input"]);
        let said = words(&output);
        assert!(output.status.code() == Some(2) && said.contains("a route of that name"), "{name}: {said}");
        assert!(said.contains("the token of work"), "{name}: {said}");
        assert_eq!(config(&home), written, "{name}");
    }
}

#[test]
fn an_api_is_added_with_the_first_of_its_servers_that_answers_and_with_no_other() {
    let server = Server::start(Provider::Gdh, Options::default());
    let (documents, other) = (Documents::start(), Documents::start());
    mcp(&documents, &server);
    let (url, elsewhere) = (documents.url(), other.url());
    let away = "http://127.0.0.1:9"; // discard: nobody listens
    let names = |servers: &[&str]| {
        let resource = json!({"resource": format!("{url}/mcp"), "authorization_servers": servers});
        documents.put("/meta", resource);
    };
    // the second, while the first is away
    names(&[away, &elsewhere]);
    other.put("/.well-known/oauth-authorization-server", metadata(&other, &format!("{elsewhere}/token")));
    let home = Home::with("listen = []\n");
    let add = |name: &str| home.run(&["add", name, &format!("{url}/mcp"), "--client-id", "me", "--no-input"]);
    let output = add("second");
    assert!(output.status.success(), "{}", words(&output));
    assert!(config(&home).contains(&format!("issuer = \"{elsewhere}\"")), "{}", config(&home));
    // the API's own host is an authorization server, too, and not one whose tokens it takes
    let before = config(&home);
    names(&[away]);
    let output = add("none");
    let said = words(&output);
    assert!(output.status.code() == Some(1) && said.contains("127.0.0.1:9") && said.contains("try again"), "{said}");
    assert_eq!(config(&home), before);
}

#[test]
fn what_an_mcp_server_says_of_others_leads_nowhere() {
    let server = Server::start(Provider::Gdh, Options::default());
    let (documents, other) = (Documents::start(), Documents::start());
    let (url, elsewhere) = (documents.url(), other.url());
    let names = |servers: &str| json!({"resource": format!("{url}/mcp"), "authorization_servers": [servers]});
    let instructions = json!({"resource": format!("{url}/mcp"), "authorization_servers": [url],
        "resource_name": "\u{1b}[2JRun: valetd logout lab", "scopes_supported": ["x\n[account.y]", "run this"]});
    let with = |member: &str, value: String| {
        let mut found = metadata(&documents, &server.token_endpoint());
        found[member] = json!(value);
        found
    };
    let good = || metadata(&documents, &server.token_endpoint());
    let meta = format!("{url}/meta");
    for (case, meta, resource, metadata) in [
        ("another host", &meta, names("https://login.invalid"), good()),
        ("plain http", &meta, names("http://login.invalid"), good()),
        ("a private address", &meta, names("https://169.254.169.254"), good()),
        ("another server without metadata", &meta, names(&elsewhere), good()),
        ("another resource", &meta, json!({"resource": elsewhere, "authorization_servers": [elsewhere]}), good()),
        ("metadata elsewhere", &"http://login.invalid/meta".to_owned(), names(&elsewhere), good()),
        ("texts", &meta, instructions, good()),
        ("tokens over http", &meta, names(&url), with("token_endpoint", "http://login.invalid/t".to_owned())),
        ("tokens of the machine", &meta, names(&url), with("token_endpoint", "https://169.254.169.254/t".to_owned())),
        ("registrations elsewhere", &meta, names(&url), with("registration_endpoint", format!("{elsewhere}/register"))),
        ("another issuer", &meta, names(&url), with("issuer", elsewhere.clone())),
    ] {
        mcp(&documents, &server);
        let challenge = format!("WWW-Authenticate: Bearer resource_metadata=\"{meta}\"\r\n");
        documents.put_with("/mcp", 401, &challenge, "");
        documents.put("/meta", resource);
        documents.put("/.well-known/oauth-authorization-server", metadata);
        other.put_with("/register", 201, "", json!({"client_id": "client-of-another"}));
        let home = Home::with("listen = []\n");
        let said = words(&home.run(&["add", "lab", &format!("{url}/mcp"), "--no-input"]));
        let written = config(&home);
        for strange in ["invalid", "169.254", &elsewhere, "account.y", "run this", "logout"] {
            assert!(!written.contains(strange), "{case}: {written}");
        }
        assert!(!said.contains('\u{1b}') && !said.contains("valetd logout"), "{case}: {said}");
        let words_for_it = format!("registered on another host than its own ({elsewhere}/register), which is not done");
        assert_eq!(said.contains(&words_for_it), case == "registrations elsewhere", "{case}: {said}");
        assert!(!said.contains("does not register clients"), "{case}: {said}");
        if written.contains("client = \"register\"") {
            let login = ["login", "lab", "--refresh-token-stdin", "--untried"];
            home.run_with_input(&login, server.sign_in().expose());
        }
        let posted = other.asked().iter().filter(|(line, _)| line.starts_with("POST")).count();
        assert_eq!(posted, 0, "{case}: {said}");
    }
}

#[test]
fn providers_are_listed_searched_and_shown_with_the_users_own() {
    let home = Home::with("listen = []\n");
    fs::create_dir_all(home.path("config/valetd/providers")).expect("a folder");
    let mine = "description = \"The lab's\"\ntoken_endpoint = \"https://auth.lab.example/t\"\n[ask]\n\
                upstream = \"the API\"\n";
    fs::write(home.path("config/valetd/providers/lab.toml"), mine).expect("written");
    let all = words(&home.run(&["providers"]));
    assert!(
        all.contains("github ") && all.contains("lab ") && all.lines().all(|line| line.chars().count() <= 80),
        "{all}"
    );
    let some = words(&home.run(&["providers", "--search", "sentinel"]));
    assert!(some.contains("cdse-sentinelhub") && !some.contains("github"), "{some}");
    assert_eq!(home.run(&["providers", "--search", "no-such-thing"]).status.code(), Some(1));
    let shown = words(&home.run(&["providers", "show", "github"]));
    assert!(shown.contains("# Sources: github/docs") && shown.contains("not run against the live service"), "{shown}");
    assert_eq!(home.run(&["providers", "show", "githup"]).status.code(), Some(2));
    let json: Value =
        serde_json::from_slice(&home.run(&["providers", "--json", "--search", "lab"]).stdout).expect("JSON");
    let lab = json["providers"].as_array().expect("a list").iter().find(|found| found["name"] == "lab").expect("mine");
    assert_eq!((&lab["yours"], &lab["ask"][0]["key"]), (&json!(true), &json!("upstream")));
    let output = home.run(&["add", "mine", "lab", "--upstream", "https://api.lab.example", "--no-input"]);
    assert!(output.status.success(), "{}", words(&output));
}

// --- the stage -------------------------------------------------------------------------------------------------------

fn config(home: &Home) -> String {
    fs::read_to_string(home.path("config/valetd/config.toml")).expect("a configuration")
}

fn metadata(documents: &Documents, token_endpoint: &str) -> Value {
    let url = documents.url();
    json!({"issuer": url, "token_endpoint": token_endpoint, "authorization_endpoint": format!("{url}/authorize"),
           "registration_endpoint": format!("{url}/register"), "scopes_supported": ["openid", "offline_access"]})
}

/// An API at `/mcp`, whose authorization server is on the same host and gives out the stand-in's tokens.
fn mcp(documents: &Documents, server: &Server) {
    let url = documents.url();
    let challenge = format!("WWW-Authenticate: Bearer resource_metadata=\"{url}/meta\"\r\n");
    documents.put_with("/mcp", 401, &challenge, "");
    let resource =
        json!({"resource": format!("{url}/mcp"), "authorization_servers": [url], "scopes_supported": ["mcp:read"]});
    documents.put("/meta", resource);
    let mut server_metadata = metadata(documents, &server.token_endpoint());
    server_metadata["revocation_endpoint"] = json!(server.revocation_endpoint().expect("it has one"));
    documents.put("/.well-known/oauth-authorization-server", server_metadata);
    let registered = json!({"client_id": "client-of-notes", "registration_access_token": "rat-of-notes",
        "registration_client_uri": format!("{url}/register/client-of-notes")});
    documents.put_with("/register", 201, "", registered);
    documents.put("/register/client-of-notes", "");
}
