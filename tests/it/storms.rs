//! However many ask, and however short tokens live, the authorization server is asked seldom.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use valetd::stand_in::{Behaviour, Options, Provider};

use crate::support::lab::{self, Server, address, ping};
use crate::support::upstreams::{read_head, serving};
use crate::support::{Answer, Daemon, Home, PATIENCE, eventually, read_answer, words};

/// Sends so many requests on connections of their own, all before any answer is read. Returns the answers.
fn at_once(address: &str, count: usize) -> Vec<Answer> {
    let connections: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("connected");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let head = format!("GET /lab/ping HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("written");
            stream
        })
        .collect();
    connections.into_iter().map(|stream| read_answer(&mut BufReader::new(stream), true).expect("an answer")).collect()
}

/// Room for a crowd of sockets at both ends. Returns how many may come.
fn crowd() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if maximum.is_none_or(|most| most > 4_500) { 1_000 } else { 100 }
}

#[test]
fn a_thousand_requests_at_expiry_are_one_token_call() {
    let count = crowd();
    let server = Server::start(Provider::Gdh, lab::short(Duration::from_secs(4)));
    let home = lab::home(&server, "", "wait = \"30s\"", "");
    let daemon = home.start();
    // at once, for the first token has two seconds until its renewal begins by itself
    eventually("the first token", || (server.issued() == 1).then_some(()));
    server.change(|options| options.access_lifetime = Duration::from_secs(3600));
    // which does not end before all are there
    server.behave(Behaviour::Hang(Duration::from_secs(6)), Some(1));
    daemon.until("lab", "usable");
    let address = address(&daemon);
    eventually("the token has expired", || (daemon.account("lab")["usable"] == false).then_some(()));
    let answers = at_once(&address, count);
    let good = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(good, count, "{:?}", answers.iter().find(|answer| answer.status != 200).map(Answer::text));
    assert_eq!(server.log().token_calls.len(), 2, "the first, and one for all");
    assert_eq!(server.log().refused(), 0);
}

#[test]
fn twelve_clients_after_a_revocation_are_one_renewal_and_twelve_good_answers() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    assert_eq!(ping(&address).status, 200);
    server.revoke_access_tokens();
    let statuses: Vec<u16> = at_once(&address, 12).iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200; 12]);
    assert_eq!(server.issued(), 2, "the first, and one for all twelve");
    assert!(server.log().refused() <= 12);
}

#[test]
fn fifty_accounts_at_one_server_are_asked_for_one_after_the_other() {
    let server = Server::start(Provider::Gdh, Options::default());
    let account = |number: u32| {
        format!(
            "[account.a{number}]\ntoken_endpoint = \"{}\"\nclient_id = \"lab\"\nheader = \"Authorization: {{id_token}}\"\n\
             upstream = \"{}\"\n",
            server.token_endpoint(),
            server.url()
        )
    };
    let accounts: String = (0..50).map(account).collect();
    let home = Home::with(&format!("listen = [\"127.0.0.1:0\"]\n{accounts}"));
    for number in 0..50 {
        home.sign_in(&format!("a{number}"), &server.sign_in());
    }
    let daemon = home.start();
    let log = eventually("all have their token", || Some(server.log()).filter(|log| log.outcomes("issued") == 50));
    let times = lab::times(&log);
    let spread = times[49].duration_since(times[0]).expect("in order");
    assert!(spread >= Duration::from_secs(4), "{spread:?}");
    assert!(log.most_token_calls_at_once <= 10, "{}", log.most_token_calls_at_once);
    // and the next time they come by themselves they are not in step either
    let next: Vec<u64> = eventually("all answers are taken in", || {
        let status = daemon.status();
        let next = |account: &Value| account["next_wakeup"]["in_seconds"].as_u64();
        Some(status["accounts"].as_array()?.iter().filter_map(next).collect())
            .filter(|next: &Vec<u64>| next.len() == 50)
    });
    let (first, last) = (next.iter().min().expect("one"), next.iter().max().expect("one"));
    assert!(last - first >= 30, "{first} to {last}");
}

#[test]
fn an_upstream_that_always_says_401_costs_one_more_request_each_and_hardly_a_token_call() {
    let hits = Arc::new(AtomicU32::new(0));
    let counted = hits.clone();
    let upstream = serving(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        while !read_head(&mut reader)?.is_empty() {
            counted.fetch_add(1, Ordering::Relaxed);
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")?;
        }
        Ok(())
    });
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, lab::EAGER, &format!("upstream = \"http://{upstream}\""), "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    const REQUESTS: u32 = 40;
    for _ in 0..REQUESTS {
        assert_eq!(ping(&address).status, 401, "the API's own word");
    }
    let (hits, calls) = (hits.load(Ordering::Relaxed), server.log().token_calls.len());
    assert!(hits <= 2 * REQUESTS, "{hits}");
    assert!(calls <= 3, "{calls}");
    eprintln!("{REQUESTS} requests: {hits} upstream requests, {calls} token calls");
}

#[test]
fn a_token_of_one_second_serves_all_the_time_and_is_asked_for_once_a_second_at_the_most() {
    let server = Server::start(Provider::Gdh, lab::short(Duration::from_secs(1)));
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let refused_in_four_seconds = || {
        let (start, mut requests, before) = (Instant::now(), 0, server.log());
        while start.elapsed() < Duration::from_secs(4) {
            assert_eq!(ping(&address).status, 200);
            requests += 1;
            std::thread::sleep(Duration::from_millis(20)); // the pace of a tool
        }
        let (elapsed, log) = (start.elapsed(), server.log());
        let calls = log.token_calls.len() - before.token_calls.len();
        assert!(calls as u64 <= elapsed.as_secs() + 2, "{calls} in {elapsed:?}");
        eprintln!("{requests} requests in {elapsed:?}: {calls} token calls");
        log.refused() - before.refused()
    };
    // on a busy machine a request may take longer than the third of a second for which its token is still good; three
    // times in a row it does not
    let fewest = (0..3).map(|_| refused_in_four_seconds()).find(|refused| *refused == 0);
    assert!(fewest.is_some(), "requests are given tokens past their time");
}

#[test]
fn a_token_of_one_second_that_nobody_wants_is_asked_for_every_five_seconds() {
    let server = Server::start(Provider::Gdh, lab::short(Duration::from_secs(1)));
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let times = eventually("the next renewal", || Some(lab::times(&server.log())).filter(|times| times.len() >= 2));
    let apart = times[1].duration_since(times[0]).expect("in order");
    // from answer to answer, on a machine that may be busy
    assert!(apart >= Duration::from_secs(3), "{apart:?}");
}

/// Opaque tokens of this life, of which no answer tells it.
fn unstated(seconds: u64) -> Options {
    Options { tell_access_lifetime: false, ..lab::short(Duration::from_secs(seconds)) }
}

#[test]
fn tokens_whose_short_life_no_answer_states_are_renewed_in_time_once_two_have_ended() {
    const LIFE: u64 = 6;
    let server = Server::start(Provider::Gdh, unstated(LIFE));
    let home = lab::home(&server, "", "", "");
    let mut daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let ask_until = |what: &str, address: &str, is_done: &dyn Fn() -> bool| {
        let end = Instant::now() + 3 * PATIENCE;
        while !is_done() {
            assert!(Instant::now() < end, "waited in vain: {what}");
            let answer = ping(address);
            assert_eq!(answer.status, 200, "{what}: {}", answer.text());
            std::thread::sleep(Duration::from_millis(100)); // the pace of a tool
        }
    };
    let learnt = |daemon: &Daemon<'_>| daemon.account("lab")["learnt_life_seconds"].as_f64();
    ask_until("two ends", &address, &|| learnt(&daemon).is_some());
    let life = learnt(&daemon).expect("seen");
    assert!((LIFE as f64 - 0.5..LIFE as f64 + 4.0).contains(&life), "seen late on a busy machine, but seen: {life}");
    let shown = words(&home.run(&["status"]));
    assert!(shown.contains(&format!("a token lives about {} s, learnt", life.round())), "{shown}");
    let before = server.log();
    assert!(before.refused() <= 4, "two ends, one request or two each: {}", before.refused());

    let began = Instant::now();
    let calls = before.token_calls.len();
    ask_until("five renewals", &address, &|| server.log().token_calls.len() >= calls + 5);
    let lives = began.elapsed().as_secs_f64() / LIFE as f64;
    assert!(5.0 <= 1.6 * lives + 1.0, "five calls in {lives} lives");
    // a life that is not known costs a refusal at each end; one may be due to the machine, when it holds up a request for
    // longer than the second for which its token is still good
    let refused = || server.log().refused() - before.refused();
    assert!(refused() <= 1, "every token was renewed before its end: {}", refused());

    // a restart knows it
    assert!(daemon.signal("TERM").success());
    let daemon = home.start();
    daemon.until("lab", "usable");
    assert_eq!(learnt(&daemon), Some(life));
    let address = lab::address(&daemon);
    let calls = server.log().token_calls.len();
    ask_until("two more renewals", &address, &|| server.log().token_calls.len() >= calls + 2);
    assert!(refused() <= 1, "nor did the restart cost one: {}", refused());
}

#[test]
fn a_token_that_is_revoked_again_and_again_is_replaced_each_time_and_nobody_is_told() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, "", "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    for revocation in 1..=6 {
        // a token that has served for a while; one that is refused as soon as it is there would be suspicious
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1_200) {
            assert_eq!(ping(&address).status, 200, "before revocation {revocation}");
            std::thread::sleep(Duration::from_millis(100)); // the pace of a tool
        }
        server.revoke_access_tokens();
        let (asked, answer) = (Instant::now(), ping(&address));
        assert_eq!(answer.status, 200, "revocation {revocation}: {}", answer.text());
        assert!(asked.elapsed() < Duration::from_secs(8), "revocation {revocation} took {:?}", asked.elapsed());
    }
    assert_eq!(server.issued(), 7);
}

#[test]
fn each_life_has_its_time_of_renewal() {
    for (life, earliest, latest) in [(Some(10), 5, 7), (Some(30), 17, 21), (Some(60), 36, 42), (None, 3_250, 3_330)] {
        let server = Server::start(Provider::Gdh, lab::short(Duration::from_secs(life.unwrap_or(3600))));
        if life.is_none() {
            let silent = json!({"access_token": "a", "id_token": "b", "token_type": "Bearer"});
            server.behave(Behaviour::Malformed(silent.to_string()), None);
        }
        let home = lab::home(&server, "", "", "");
        let mut daemon = home.start();
        let account = daemon.until("lab", "usable");
        // counted from the token's beginning, however late we look; both are whole seconds, so that one may be missing
        let next = account["next_wakeup"]["in_seconds"].as_u64().expect("a wakeup");
        let left = account["seconds_left"].as_u64().expect("a life");
        let life = life.unwrap_or(3600);
        let after = life - (life / 10).clamp(1, 10) + next - left;
        assert!((earliest - 1..=latest + 1).contains(&after), "{life}: {after}");
        assert_eq!(account["next_wakeup"]["reason"], "before-expiry");
        daemon.signal("KILL");
    }
}

#[test]
fn an_api_that_refuses_a_fresh_token_is_told_of_until_it_takes_one() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, lab::EAGER, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let address = address(&daemon);
    let is_told = || words(&home.run(&["status"])).contains("the API refuses this token");
    assert_eq!(ping(&address).status, 200);
    server.revoke_access_tokens();
    assert_eq!(ping(&address).status, 200);
    assert!(!is_told(), "a revoked token was renewed, and taken");
    assert_eq!(crate::support::get(&address, "/lab/unauthorized").expect("an answer").status, 401);
    assert!(is_told(), "{}", words(&home.run(&["status"])));
    assert_eq!(ping(&address).status, 200);
    assert!(!is_told());
}
