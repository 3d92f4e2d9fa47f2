//! The audit file, as somebody reads it afterwards.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use valetd::stand_in::{Options, Provider};

use crate::keys::add;
use crate::lab::{self, Server, address};
use crate::support::{eventually, mode, send};

#[test]
fn every_request_is_a_line_without_query_or_secret_and_the_file_may_be_renamed() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "audit = true");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let key = add(&home, "agent", &["--route", "lab", "--method", "GET"]);
    let file = home.path("state/valetd/audit.jsonl");

    let get = |target: &str| send(&address, "GET", target, &[("Cookie", "c00kie")], b"").expect("an answer");
    assert_eq!(get("/lab/datasets?token=s3cret").status, 200);
    assert_eq!(get(&format!("/{key}/lab//data%73ets;v=1?q=s3cret")).status, 404);
    let refused = send(&address, "POST", "/lab/datasets", &[("X-Valetd-Key", &key)], b"12345").expect("an answer");
    assert_eq!(refused.status, 403);
    assert_eq!(get("/nowhere").status, 404);
    let lines = until_lines(&file, 4);
    assert_eq!(mode(&file), 0o600);
    let told =
        |line: &Value| ["key", "route", "method", "path", "status", "verdict"].map(|member| line[member].clone());
    let expected = [
        [Value::Null, json!("lab"), json!("GET"), json!("/lab/datasets"), json!(200), json!("forwarded")],
        [json!("agent"), json!("lab"), json!("GET"), json!("/lab/datasets"), json!(404), json!("forwarded")],
        [json!("agent"), json!("lab"), json!("POST"), json!("/lab/datasets"), json!(403), json!("key-rights")],
        [Value::Null, Value::Null, json!("GET"), json!("/nowhere"), json!(404), json!("no-route")],
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(told(line), expected, "{line:#}");
        let peer = &line["peer"];
        assert_eq!(peer["uid"], rustix::process::geteuid().as_raw(), "{line:#}");
        if !peer["pid"].is_null() {
            assert_eq!(peer["pid"], std::process::id(), "{line:#}");
        }
    }
    // we are still there while the answer is on its way, so some of the look-ups found us
    assert!(lines.iter().any(|line| line["peer"]["pid"] == std::process::id()), "{lines:#?}");
    assert!(lines[0]["bytes_out"].as_u64() > Some(0) && lines[0]["renewal"].is_u64(), "{:#}", lines[0]);
    let text = fs::read_to_string(&file).expect("the file");
    for secret in ["s3cret", "c00kie", "vk_"].into_iter().map(str::to_owned).chain(server.secrets()) {
        assert!(!text.contains(&secret), "a secret is in {text}");
    }

    let moved = home.path("state/valetd/audit.jsonl.1");
    fs::rename(&file, &moved).expect("renamed");
    get("/lab/datasets");
    assert_eq!(until_lines(&file, 1)[0]["status"], 200);
    assert_eq!(until_lines(&moved, 4).len(), 4);
    let audit = eventually("the status knows", || {
        Some(daemon.status()["daemon"]["audit"].clone()).filter(|audit| audit["written"] == 5)
    });
    assert_eq!((&audit["file"], &audit["dropped"]), (&json!(file), &json!(0)));

    home.write_config(&lab::config(&server, "", "", ""));
    assert!(home.run(&["reload"]).status.success());
    assert_eq!(daemon.status()["daemon"]["audit"], Value::Null);
    let address = lab::address(&daemon);
    assert_eq!(send(&address, "GET", "/lab/datasets", &[], b"").expect("an answer").status, 200);
    assert_eq!(until_lines(&file, 1).len(), 1, "nothing more is noted");
}

#[test]
fn an_audit_that_cannot_be_written_is_said_and_stops_nobody() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "audit = \"/nowhere/at/all/audit.jsonl\"");
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(lab::ping(&address(&daemon)).status, 200);
    eventually("the status counts it", || (daemon.status()["daemon"]["audit"]["dropped"] == 1).then_some(()));
    assert!(daemon.log().contains("the audit cannot be written"));
}

/// Waits until a file has so many lines.
fn until_lines(file: &Path, count: usize) -> Vec<Value> {
    eventually("the audit is written", || {
        let text = fs::read_to_string(file).ok()?;
        let lines: Option<Vec<Value>> = text.lines().map(|line| serde_json::from_str(line).ok()).collect();
        lines.filter(|lines| lines.len() >= count)
    })
}
