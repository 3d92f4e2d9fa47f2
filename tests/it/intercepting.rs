//! `valetd exec --intercept`: programs that insist on the API's own host get a route's token, unmodified.

use std::io::{BufReader, Read, Write};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::company::{Manner, Scene};
use crate::support::upstreams::{mirror, read_head, serving};
use crate::support::{eventually, words};

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", words(output)))
}

const URL: &str = "https://api.example/catalog/v2?a=b%2Fc";

#[test]
fn an_unmodified_program_gets_the_routes_token_at_the_apis_own_host() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let python = "import urllib.request as u; print(u.urlopen(u.Request('https://api.example/catalog/v2?a=b%2Fc', \
                  headers={'Authorization': 'Bearer theirs'})).read().decode())";
    let programs: [(&str, &[&str]); 5] = [
        ("curl", &["curl", "-sS", "-H", "Authorization: Bearer theirs", URL]),
        ("curl, HTTP/1.1", &["curl", "-sS", "--http1.1", URL]),
        ("curl, HTTP/2 only", &["curl", "-sS", "--http2", "-X", "POST", "-d", "x", URL]),
        ("in the clear", &["curl", "-sS", "http://api.example/catalog/v2?a=b%2Fc"]),
        ("urllib", &["python3", "-c", python]),
    ];
    for (name, program) in programs {
        let output = scene.run(&[&["-r", "api", "--intercept", "--"], program].concat());
        let head = scene.upstreams_head(&output);
        let target = if name.contains("only") { "POST /catalog/v2?a=b%2Fc" } else { "GET /catalog/v2?a=b%2Fc" };
        assert!(head.starts_with(target), "{name}: {head}");
        assert!(head.to_ascii_lowercase().contains("\nhost: api.example\r\n"), "{name}: {head}");
        for secret in ["vk_", "theirs", "proxy-authorization"] {
            assert!(!head.to_ascii_lowercase().contains(secret), "{name}: {head}");
        }
        assert!(!scene.proxy.has_seen("catalog"), "{name}");
    }
    let left = std::fs::read_dir(scene.home().path("run/valetd")).expect("the folder of the socket");
    let left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("exec-")), "{left:?}");
}

/// Whether a program is there.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().expect("sh runs");
    if !found.status.success() {
        eprintln!("skipped: {program} is not installed");
    }
    found.status.success()
}

#[test]
fn each_kind_of_program_is_told_in_the_way_that_it_hears() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let folder = scene.home().path("work");
    std::fs::create_dir_all(&folder).expect("a folder");
    let url = "https://api.example/catalog/v2?a=b%2Fc";
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("written");
    write(
        "A.java",
        &format!(
            "import java.net.URI; import java.net.http.*; public class A {{ public static void main(String[] a) throws \
             Exception {{ var c = HttpClient.newBuilder().proxy(java.net.ProxySelector.getDefault()).build(); \
             System.out.println(c.send(HttpRequest.newBuilder(URI.create(\"{url}\")).build(), \
             HttpResponse.BodyHandlers.ofString()).body()); }} }}"
        ),
    );
    write(
        "a.go",
        &format!(
            "package main\nimport (\"io\"; \"net/http\"; \"os\")\nfunc main() {{ r, e := http.Get(\"{url}\"); if e != nil \
             {{ panic(e) }}; io.Copy(os.Stdout, r.Body) }}\n"
        ),
    );
    write("a.pl", &format!("use LWP::UserAgent; print LWP::UserAgent->new->get('{url}')->content;"));
    write(
        "a.mjs",
        "import https from 'node:https'; import { connect } from 'node:net'; import tls from 'node:tls';\n\
             const proxy = new URL(process.env.https_proxy); const s = connect(proxy.port, proxy.hostname, () => \
             s.write('CONNECT api.example:443 HTTP/1.1\\r\\n\\r\\n')); s.once('data', () => { const t = tls.connect({ \
             socket: s, servername: 'api.example' }, () => t.write('GET /catalog/v2?a=b%2Fc HTTP/1.1\\r\\nHost: \
             api.example\\r\\nConnection: close\\r\\n\\r\\n')); let a = ''; t.on('data', d => a += d); t.on('end', () => \
             console.log(a.split('\\r\\n\\r\\n').slice(1).join('\\r\\n\\r\\n'))); });\n",
    );
    let fetch = format!("fetch('{url}').then(r => r.text()).then(console.log)");
    let programs: [(&str, &[&str], &[&str]); 7] = [
        ("wget", &["--trust-mount"], &["wget", "-qO-", url]),
        ("java", &["--java"], &["java", "A.java"]),
        ("go", &[], &["go", "run", "a.go"]),
        ("perl", &[], &["perl", "a.pl"]),
        ("node", &[], &["node", "a.mjs"]),
        ("deno", &[], &["deno", "eval", &fetch]),
        ("bun", &[], &["bun", "-e", &fetch]),
    ];
    for (name, options, program) in programs {
        let has_library = || Command::new("perl").args(["-MLWP::Protocol::https", "-e", "1"]).output();
        let is_there = match name {
            "perl" => has(name) && has_library().is_ok_and(|output| output.status.success()),
            "wget" => has(name) && has("bwrap"),
            _ => has(name),
        };
        if !is_there {
            continue;
        }
        let arguments = [&["-r", "api", "--intercept"], options, &["--"], program].concat();
        let mut exec = scene.exec(&arguments);
        exec.current_dir(&folder).env("GOCACHE", folder.join("cache")).env("GO111MODULE", "off");
        let head = scene.upstreams_head(&exec.output().expect("valetd runs"));
        assert!(head.starts_with("GET /catalog/v2?a=b%2Fc "), "{name}: {head}");
    }
}

#[test]
fn what_a_command_would_find_can_be_looked_at_and_holds_no_secret() {
    let scene = Scene::new("require_key = true");
    let config = std::fs::read_to_string(scene.home().path("config/valetd/config.toml")).expect("a configuration");
    let exec = "exec = { env = { LAB_TOKEN = \"{placeholder_jwt}\" } }\n";
    let other = format!(
        "[route.other]\naccount = \"gbdx\"\nupstream = \"https://auth.example/api\"\n{}\n",
        scene.world.trust()
    );
    let config = config.replacen("[account.gbdx]\n", &format!("[account.gbdx]\n{exec}"), 1) + &other;
    scene.home().write_config(&config);
    let _daemon = scene.start();
    for options in [&["--no-intercept"][..], &["--intercept"], &["--isolate"], &["--key-in-url"]] {
        let mut command = scene.exec(&[&["-r", "api", "-r", "other", "--print-env"], options].concat());
        command.env("GDH_REFRESH_TOKEN", "a refresh token").env("SSH_AUTH_SOCK", "/x").env_remove("DISPLAY");
        let output = command.output().expect("valetd runs");
        assert!(output.status.success() && output.stderr.is_empty(), "{options:?}: {}", words(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let has = |line: &str| said.lines().any(|said| said.starts_with(line));
        for line in ["API_URL=http://127.0.0.1:", "OTHER_URL=http://127.0.0.1:", "VALETD_KEY=[secret]"] {
            assert!(has(line), "{options:?}: {line}: {said}");
        }
        let is_intercepted = ["--intercept", "--isolate"].iter().any(|option| options.contains(option));
        for line in ["https_proxy=http://", "SSL_CERT_FILE=/", "NODE_USE_ENV_PROXY=1", "LAB_TOKEN=eyJ"] {
            assert_eq!(has(line), is_intercepted, "{options:?}: {line}: {said}");
        }
        assert!(has("unset GDH_REFRESH_TOKEN") && !has("unset DISPLAY"), "{options:?}: {said}");
        assert_eq!(has("unset SSH_AUTH_SOCK"), options.contains(&"--isolate"), "{options:?}: {said}");
        assert_eq!(has("https_proxy=http://exec:[secret]@"), options.contains(&"--intercept"), "{options:?}: {said}");
        assert!(!said.contains("vk_") && !said.contains("a refresh token"), "{options:?}: {said}");
    }
    // and by all routes of an account a command finds each of them
    let urls = "curl -sS -H \"X-Valetd-Key: $VALETD_KEY\" $API_URL/x $OTHER_URL/y";
    let output = scene.run(&["--account", "gbdx", "--", "sh", "-c", urls]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("GET /x ") && said.contains("GET /api/y "), "{}", words(&output));
}

#[test]
fn what_no_route_leads_to_passes_untouched_or_is_refused_with_only() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let ca = scene.world.folder.path().join("ca.pem").display().to_string();
    // with its own certificate, which the authority of the command cannot have made
    let ask = ["curl", "-sS", "--http1.1", "--cacert", &ca, "https://auth.example/x"];
    let output = scene.run(&[&["-r", "api", "--intercept", "-v", "--"], &ask[..]].concat());
    assert!(output.status.success(), "{}", words(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("auth.example:443: passed through, by 127.0.0.1:"), "{said}");
    assert!(!String::from_utf8_lossy(&output.stdout).to_ascii_lowercase().contains("authorization"), "{output:?}");
    assert!(scene.proxy.targets().contains(&"auth.example:443".to_owned()));
    let before = scene.proxy.targets().len();
    for ask in [&ask[..], &["curl", "-fsS", "http://auth.example/x"], &["curl", "-fsS", "http://127.0.0.2:1/"]] {
        let output = scene.run(&[&["-r", "api", "--intercept", "--only", "-v", "--"], ask].concat());
        let is_direct = ask.last().is_some_and(|url| url.contains("127.0.0"));
        assert!(!output.status.success(), "{}", words(&output));
        assert!(is_direct || words(&output).contains("refused, as no route leads there"), "{}", words(&output));
    }
    assert_eq!(scene.proxy.targets().len(), before);
}

#[test]
fn what_no_route_leads_to_also_goes_through_a_companys_proxy_that_is_spoken_to_in_tls() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let origin = scene.world.behind_tls(&mirror());
    let ca = scene.world.folder.path().join("ca.pem").display().to_string();
    let in_tls = scene.world.proxy(Manner::Guarded, true, origin, origin);
    let url = format!("https://me:p%20w@{}", in_tls.address);
    let ask = |proxy: &str, words: &[&str]| {
        let mut command = scene.exec(&[&["-r", "api", "--intercept", "-v", "--"], words].concat());
        command.env("https_proxy", proxy).env("http_proxy", proxy).env("SSL_CERT_FILE", &ca);
        command.output().expect("valetd runs")
    };
    let output = ask(&url, &["curl", "-sS", "--cacert", &ca, "https://auth.example/x"]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("GET /x "), "{}", words(&output));
    assert_eq!(in_tls.targets(), ["auth.example:443"]);
    // a proxy that nobody has vouched for is told nothing
    let strange = url.replace("127.0.0.1", "localhost");
    let output = ask(&strange, &["curl", "-sS", "--cacert", &ca, "https://auth.example/x"]);
    assert!(!output.status.success() && words(&output).contains("TLS with the proxy"), "{}", words(&output));
    assert_eq!(in_tls.targets().len(), 1);
    // in the clear, the proxy is asked in absolute form
    let plain = scene.world.behind_tls(&mirror());
    let output = ask(&format!("https://{plain}"), &["curl", "-sS", "http://auth.example/y"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("GET http://auth.example/y "), "{}", words(&output));
}

#[test]
fn plain_http_to_a_configured_host_goes_up_in_tls_however_it_is_asked() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    // a request in absolute form, a tunnel to the port of plain http, and a whole name
    for ask in [
        &["curl", "-sS", "http://api.example:80/catalog/v2"][..],
        &["curl", "-sS", "http://API.example./catalog/v2"],
        &["curl", "-sSp", "http://api.example/catalog/v2"],
        &["curl", "-sS", "--http1.1", "-H", "Host: api.example.", "https://api.example/catalog/v2"],
        &["curl", "-sS", "--http2", "https://api.example./catalog/v2"],
        &["sh", "-c", "curl -sS -H 'Host: api.example' --request-target https://api.example/catalog/v2 $http_proxy"],
    ] {
        let head = scene.upstreams_head(&scene.run(&[&["-r", "api", "--intercept", "--only", "--"], ask].concat()));
        assert!(head.starts_with("GET /catalog/v2 "), "{ask:?}: {head}");
        assert!(head.to_ascii_lowercase().contains("\nhost: api.example\r\n"), "{ask:?}: {head}");
    }
    assert!(!scene.proxy.has_seen("catalog"));
}

#[test]
fn plain_http_elsewhere_goes_by_the_proxy_that_was_named_before_however_that_is_spelled() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let plain = mirror();
    let ask = |variable: &str, proxy: &str| {
        let mut command = scene.exec(&["-r", "api", "--intercept", "--", "curl", "-sS", "http://auth.example/y"]);
        command.env_remove("https_proxy").env(variable, proxy).output().expect("valetd runs")
    };
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        let output = ask(variable, &format!("http://{plain}"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with("GET http://auth.example/y "), "{variable}: {}", words(&output));
        let before = scene.proxy.targets().len();
        ask(variable, &format!("socks5h://{}", scene.proxy.address));
        assert_eq!(scene.proxy.targets()[before..], ["auth.example:80"], "{variable}");
        // past what is no proxy there is no way
        let output = ask(variable, "gopher://127.0.0.1:1");
        assert!(words(&output).contains("upstream-unreachable"), "{variable}: {}", words(&output));
    }
}

#[test]
fn a_variable_of_one_program_names_the_commands_proxy_where_it_named_another() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let script = "test \"$grpc_proxy\" = \"$https_proxy\" && test \"$PIP_PROXY\" = \"$https_proxy\" && \
                  test -z \"$npm_config_proxy\" && echo \"$no_grpc_proxy\"";
    let mut command = scene.exec(&["-r", "api", "--intercept", "--", "sh", "-c", script]);
    command.env("grpc_proxy", "http://127.0.0.1:1").env("PIP_PROXY", "http://127.0.0.1:1");
    let output = command.env("no_grpc_proxy", "api.example").output().expect("valetd runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !said.contains("api.example"), "{}", words(&output));
}

#[test]
fn a_refusal_in_http2_is_seen_by_a_client_that_still_sends() {
    let scene = Scene::new("deny = [\"POST /**\", \"PUT /**\"]");
    let _daemon = scene.start();
    let body = scene.home().path("body");
    std::fs::write(&body, vec![b'x'; 40_000]).expect("written");
    let body = body.display();
    let own = &scene.stage.address;
    let mut asks = vec![
        format!("--http2-prior-knowledge http://{own}/api/x"),
        format!("--http2-prior-knowledge http://{own}/none/x"),
        "--http2 https://api.example/x".to_owned(),
        "--http2 -H 'Host: auth.example' https://api.example/x".to_owned(),
    ];
    asks = asks
        .iter()
        .flat_map(|ask| ["-d x", "-d @BODY", "-T BODY", "-T - < BODY"].map(|how| format!("{ask} {how}")))
        .collect();
    for ask in asks {
        let curl = format!("curl -sS --noproxy 127.0.0.1 {}; echo \" $?\"", ask.replace("BODY", &body.to_string()));
        let script = format!("for n in 1 2 3 4 5; do {curl}; done");
        let output = scene.run(&["-r", "api", "--intercept", "--", "sh", "-c", &script]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said.matches("urn:valetd:problem:").count(), 5, "{ask}: {}", words(&output));
        assert_eq!(said.lines().filter(|line| *line == " 0").count(), 5, "{ask}: {}", words(&output));
    }
}

#[test]
fn rules_and_scopes_hold_as_on_the_reverse_path() {
    let scene = Scene::new("deny = [\"DELETE /**\", \"/admin/**\"]");
    let config = std::fs::read_to_string(scene.home().path("config/valetd/config.toml")).expect("a configuration");
    let other = "[route.other]\naccount = \"gbdx\"\nupstream = \"https://auth.example/api\"\n";
    scene.home().write_config(&format!("{config}{other}"));
    let _daemon = scene.start();
    let problem = |url: &str, words: &[&str]| {
        let ask = ["curl", "-sS", url];
        let output = scene.run(&[&["-r", "api", "--intercept", "--"], &ask[..], words].concat());
        json(&output)["type"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(problem("https://api.example/admin/x", &[]), "urn:valetd:problem:forbidden-by-route");
    assert_eq!(problem("https://api.example/Admin%2fx", &[]), "urn:valetd:problem:forbidden-by-route");
    assert_eq!(problem("https://api.example/x", &["-X", "DELETE"]), "urn:valetd:problem:forbidden-by-route");
    assert_eq!(
        problem("https://api.example/x", &["-H", "Destination: https://api.example/admin/x"]),
        "urn:valetd:problem:forbidden-by-route"
    );
    assert_eq!(
        problem("https://api.example/x", &["-H", "Origin: https://evil.example"]),
        "urn:valetd:problem:not-allowed"
    );
    let mismatch = problem("https://api.example/x", &["--http1.1", "-H", "Host: auth.example"]);
    assert_eq!(mismatch, "urn:valetd:problem:misdirected-request");
    // another route's host is not this command's
    let output = scene.run(&["-r", "api", "--intercept", "--only", "--", "curl", "-sS", "https://auth.example/api/x"]);
    assert!(!output.status.success(), "{}", words(&output));
    // and where it is, what is outside of its base path is nobody's
    let both = ["-r", "api", "-r", "other", "--intercept", "--", "curl", "-sS"];
    let output = scene.run(&[&both[..], &["https://auth.example/elsewhere"]].concat());
    assert_eq!(json(&output)["type"], "urn:valetd:problem:no-route", "{}", words(&output));
    let said = json(&output);
    assert_eq!(said["upstreams"], serde_json::json!(["https://auth.example/api"]), "{said}");
    assert!(
        said["detail"].as_str().is_some_and(|detail| detail.contains("lead to https://auth.example/api.")),
        "{said}"
    );
}

#[test]
fn an_answers_references_stay_as_they_are_but_for_those_to_another_account() {
    let port = Arc::new(OnceLock::new());
    let its = port.clone();
    let upstream = serving(move |mut stream| {
        let port: &String = its.wait();
        read_head(&mut BufReader::new(&stream))?;
        let fields = format!(
            "Location: https://api.example/next?a=b\r\nLink: </page/2>; rel=next\r\n\
                      Set-Cookie: a=b; Path=/; Domain=api.example; Secure\r\nAlt-Svc: h3=\":443\"\r\n\
                      Strict-Transport-Security: max-age=1\r\nContent-Location: http://localhost:{port}/other/x\r\n"
        );
        stream.write_all(
            format!("HTTP/1.1 302 Found\r\n{fields}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes(),
        )
    });
    let scene = Scene::before(&upstream, "");
    let own = scene.stage.address.rsplit(':').next().expect("a port");
    port.set(own.to_owned()).expect("once");
    let config = std::fs::read_to_string(scene.home().path("config/valetd/config.toml")).expect("a configuration");
    let other = "[account.lab]\ntoken_endpoint = \"https://auth.example/t\"\n[route.other]\naccount = \"lab\"\n\
                 upstream = \"https://auth.example/api\"\n";
    scene.home().write_config(&format!("{config}{other}"));
    let _daemon = scene.start();
    let output = scene.run(&["-r", "api", "--intercept", "--", "curl", "-sSi", "--http1.1", URL]);
    assert!(output.status.success(), "{}", words(&output));
    let head = String::from_utf8_lossy(&output.stdout).into_owned();
    for field in [
        "location: https://api.example/next?a=b",
        "link: </page/2>; rel=next",
        "set-cookie: a=b; path=/; domain=api.example; secure",
        "strict-transport-security: max-age=1",
    ] {
        assert!(head.to_ascii_lowercase().contains(&format!("\r\n{field}\r\n")), "{field}: {head}");
    }
    // which would lead out of the tunnel, and to another account's token
    for gone in ["alt-svc", "content-location"] {
        assert!(!head.to_ascii_lowercase().contains(gone), "{head}");
    }
}

#[test]
fn exit_codes_and_signals_are_handed_through_and_nothing_outlives_the_command() {
    let scene = Scene::new("");
    let _daemon = scene.start();
    let shell = |script: &str| scene.exec(&["-r", "api", "--intercept", "--", "sh", "-c", script]);
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        assert_eq!(shell(script).status().expect("valetd runs").code(), Some(code), "{script}");
    }
    let missing = scene.run(&["-r", "api", "--intercept", "--", "no-such-command-here"]);
    assert_eq!(missing.status.code(), Some(127), "{}", words(&missing));
    // a signal reaches the command, which ends as it likes
    let ready = scene.home().path("ready");
    let script = format!("trap 'exit 9' TERM; touch {}; while :; do sleep 0.05; done", ready.display());
    let mut running = shell(&script).spawn().expect("valetd runs");
    eventually("it runs", || ready.exists().then_some(()));
    let pid = running.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    assert_eq!(running.wait().expect("it ends").code(), Some(9));
    // the key is of no more use
    let keys = scene.home().run(&["key", "list"]);
    assert!(!words(&keys).contains("ephemeral"), "{}", words(&keys));
}

#[test]
fn where_a_route_asks_for_a_key_no_other_process_can_use_the_commands_proxy() {
    let scene = Scene::new("require_key = true");
    let _daemon = scene.start();
    let (ready, go) = (scene.home().path("ready"), scene.home().path("go"));
    let script = format!(
        "echo $https_proxy > {0}.new; mv {0}.new {0}; while [ ! -e {1} ]; do sleep 0.05; done; exec curl -sS {URL}",
        ready.display(),
        go.display()
    );
    let running = scene
        .exec(&["-r", "api", "--intercept", "--", "sh", "-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("valetd runs");
    let proxy = eventually("it runs", || std::fs::read_to_string(&ready).ok());
    let (_, address) = proxy.trim().split_once('@').expect("a login");
    for proxy in [format!("http://{address}"), format!("http://exec:guess@{address}"), format!("http://x@{address}")] {
        for url in [URL, "http://api.example/x"] {
            let output =
                Command::new("curl").args(["-sSik", "-x", &proxy, url]).env_clear().output().expect("curl runs");
            let said = words(&output);
            assert!(said.contains("407") && !said.contains("200 "), "{proxy}: {said}");
        }
    }
    std::fs::write(&go, "").expect("written");
    scene.upstreams_head(&running.wait_with_output().expect("it ends"));
}

#[test]
fn a_daemon_that_is_restarted_under_a_command_serves_it_again() {
    let scene = Scene::new("");
    let mut daemon = scene.start();
    let (ready, go) = (scene.home().path("ready"), scene.home().path("go"));
    let script = format!(
        "curl -sS {URL} >/dev/null && touch {} && while [ ! -e {} ]; do sleep 0.05; done; exec curl -sS {URL}",
        ready.display(),
        go.display()
    );
    let running = scene
        .exec(&["-r", "api", "--intercept", "--", "sh", "-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("valetd runs");
    eventually("it has asked once", || ready.exists().then_some(()));
    assert!(daemon.signal("TERM").success());
    daemon = scene.start();
    std::fs::write(&go, "").expect("written");
    let output = running.wait_with_output().expect("it ends");
    scene.upstreams_head(&output);
    drop(daemon);
}

#[test]
fn what_breaks_in_mid_stream_breaks_for_the_command_and_a_command_that_is_killed_leaves_nothing_under_way() {
    let gone = Arc::new(AtomicUsize::new(0));
    let seen = gone.clone();
    let upstream = serving(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let head = read_head(&mut reader)?;
        let framing = if head.contains("chunked ") { "Transfer-Encoding: chunked" } else { "Content-Length: 1000" };
        let half = if head.contains("chunked ") { "4\r\nhalf\r\n" } else { "half" };
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{half}").as_bytes())?;
        if head.contains("/drip ") {
            reader.read_to_end(&mut Vec::new())?; // until it is hung up on
            seen.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    let scene = Scene::before(&upstream, "");
    let mut daemon = scene.start();
    let exec = |script: &str| {
        let mut command = scene.exec(&["-r", "api", "--intercept", "--", "sh", "-c", script]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    for (version, path) in
        [("--http1.1", "length"), ("--http1.1", "chunked"), ("--http2", "length"), ("--http2", "chunked")]
    {
        let output = exec(&format!("curl -sS {version} https://api.example/{path}")).output().expect("valetd runs");
        assert!(!output.status.success(), "half of it was taken for the whole: {version} {path}: {}", words(&output));
    }
    let (pid, came) = (scene.home().path("pid"), scene.home().path("came"));
    for (version, dies) in
        [("--http1.1", "command"), ("--http2", "command"), ("--http1.1", "daemon"), ("--http2", "daemon")]
    {
        let before = gone.load(Ordering::Relaxed);
        let script = format!(
            "echo $$ > {}; exec curl -sSN {version} -o {} https://api.example/drip",
            pid.display(),
            came.display()
        );
        let running = exec(&script).spawn().expect("valetd runs");
        eventually("half has come", || std::fs::read(&came).ok().filter(|came| came == b"half"));
        match dies {
            "command" => {
                let pid = std::fs::read_to_string(&pid).expect("a number");
                assert!(Command::new("kill").args(["-KILL", pid.trim()]).status().expect("kill runs").success());
            }
            _ => drop(daemon.signal("KILL")),
        }
        let output = running.wait_with_output().expect("it ends");
        match dies {
            "command" => assert_eq!(output.status.code(), Some(137), "{version}: {}", words(&output)),
            _ => assert!(!output.status.success(), "{version}: {}", words(&output)),
        }
        eventually("the upstream is hung up on", || (gone.load(Ordering::Relaxed) > before).then_some(()));
        std::fs::remove_file(&came).expect("removed");
        if dies == "daemon" {
            daemon = scene.start();
        }
    }
}

#[test]
fn a_route_to_an_address_and_two_routes_to_one_place_are_refused_in_words() {
    let scene = Scene::new("");
    let config = std::fs::read_to_string(scene.home().path("config/valetd/config.toml")).expect("a configuration");
    let more = "[route.twin]\naccount = \"gbdx\"\nupstream = \"https://api.example\"\n\
                [route.number]\naccount = \"gbdx\"\nupstream = \"https://192.0.2.1\"\n";
    scene.home().write_config(&format!("{config}{more}"));
    let _daemon = scene.start();
    for (routes, says) in [(["api", "number"], "leads to the address"), (["api", "twin"], "both lead to")] {
        let output = scene.run(&["-r", routes[0], "-r", routes[1], "--intercept", "--", "true"]);
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        assert!(words(&output).contains(says), "{}", words(&output));
    }
}

#[test]
fn a_program_that_insists_on_signing_in_is_given_a_placeholder_and_never_a_secret() {
    let exec = "exec = { placeholder_token = true, env = { LAB_USER = \"x\", LAB_TOKEN = \"{placeholder_jwt}\" } }\n";
    let scene = Scene::new("");
    let config = std::fs::read_to_string(scene.home().path("config/valetd/config.toml")).expect("a configuration");
    let endpoint = config.lines().find(|line| line.starts_with("token_endpoint")).expect("an endpoint");
    let away = "token_endpoint = \"https://api.example/auth/token\"";
    scene.home().write_config(&config.replacen("[account.gbdx]\n", &format!("[account.gbdx]\n{exec}"), 1));
    let _daemon = scene.start();
    // where the command believes its tokens to come from; the daemon reads another file
    let believed = scene.home().path("believed.toml");
    let text = config.replacen("[account.gbdx]\n", &format!("[account.gbdx]\n{exec}"), 1).replacen(endpoint, away, 1);
    std::fs::write(&believed, text).expect("written");
    let with = ["--config", believed.to_str().expect("text"), "-r", "api", "--intercept", "--"];
    let ask = |form: &str| {
        let curl = ["curl", "-sS", "-d", form, "https://api.example/auth/token"];
        json(&scene.run(&[&with[..], &curl[..]].concat()))
    };
    let given = ask("grant_type=password&username=x&password=x&scope=a+b");
    assert_eq!((&given["token_type"], &given["scope"]), (&"Bearer".into(), &"a b".into()), "{given}");
    let token = given["access_token"].as_str().expect("a token");
    assert!(token.ends_with('.') && token.starts_with("eyJ"), "{token}");
    let refused = ask("grant_type=password&username=me&password=hunter2");
    assert_eq!(refused["type"], "urn:valetd:problem:sign-in-is-valetds", "{refused}");
    let output = scene.run(&[&with[..], &["sh", "-c", "echo $LAB_TOKEN; echo $LAB_USER"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{token}\nx\n"));
}

#[test]
#[ignore = "it prints what the proxy of a command costs, in half a minute"]
fn measure_what_interception_costs() {
    let upstream = serving(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        while !read_head(&mut reader)?.is_empty() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        }
        Ok(())
    });
    let scene = Scene::before(&upstream, "");
    let _daemon = scene.start();
    let median = |options: &[&str]| {
        let mut times: Vec<Duration> = (0..20)
            .map(|_| {
                let began = Instant::now();
                let output = scene.run(&[&["-r", "api"], options, &["--", "true"]].concat());
                assert!(output.status.success(), "{}", words(&output));
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let plain = median(&[]);
    eprintln!(
        "start, median of 20: exec {plain:?}, --intercept {:?}, --isolate {:?}",
        median(&["--intercept"]),
        median(&["--isolate"])
    );
    const REQUESTS: u64 = 5000;
    for version in ["--http1.1", "--http2", "--http1.1 -Z --parallel-max 50"] {
        let ready = scene.home().path("ready");
        let script = format!(
            "curl -sS {version} -o /dev/null https://api.example/0 && touch {0} && while [ -e {0} ]; do sleep 0.02; done; \
             curl -sS {version} 'https://api.example/[1-{REQUESTS}]' -o /dev/null; touch {0}.done; sleep 60",
            ready.display()
        );
        let mut exec =
            scene.exec(&["-r", "api", "--intercept", "--", "sh", "-c", &script]).spawn().expect("valetd runs");
        eventually("it is warm", || ready.exists().then_some(()));
        let spent = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", exec.id())).expect("it runs");
            stat.split(' ').next().and_then(|nanoseconds| nanoseconds.parse::<u64>().ok()).expect("a number")
        };
        let before = spent();
        std::fs::remove_file(&ready).expect("removed");
        let done = ready.with_extension("done");
        eventually("all are answered", || done.exists().then_some(()));
        let each = (spent() - before) as f64 / REQUESTS as f64 / 1000.0;
        eprintln!("{version}: {each:.1} us of CPU a request in exec");
        std::fs::remove_file(&done).expect("removed");
        exec.kill().expect("killed");
        let _ = exec.wait();
    }
}
