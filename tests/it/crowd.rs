//! More clients than there are descriptors.

use std::io::Write;
use std::net::TcpStream;

use valetd::stand_in::{Options, Provider};

use crate::support::providers::{gbdx_account, start};
use crate::support::{Home, eventually, free_address, get};

#[test]
fn more_connections_than_descriptors_starve_neither_the_renewer_nor_those_who_come_after() {
    let gbdx = start(Provider::Gbdx, Options::default());
    let address = free_address();
    let home = Home::with(&format!("listen = [\"{address}\"]\nworkers = 1\n{}", gbdx_account(&gbdx)));
    home.sign_in("gbdx", &gbdx.sign_in());
    let daemon = home.start_as(home.valetd_by(&["prlimit", "--nofile=128:128"], &["run", "--log", "debug"]));
    daemon.until("gbdx", "usable");
    // half a request each, so that none of them ends by itself
    let crowd: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut client = TcpStream::connect(&address).expect("the kernel takes it");
            client.write_all(b"GET /gbdx/auth/v1/validate_token HTTP/1.1\r\n").expect("sent");
            client
        })
        .collect();
    eventually("as many are served as there is room for", || {
        (daemon.status()["daemon"]["connections"].as_u64() >= Some(16)).then_some(())
    });
    // the renewer's and the control socket's descriptors are not the crowd's to take
    assert!(daemon.control("POST", "/v1/accounts/gbdx/refresh").is_ok_and(|answer| answer.status < 300));
    eventually("a renewal goes through", || (daemon.account("gbdx")["renewals"].as_u64() >= Some(2)).then_some(()));
    drop(crowd);
    let answer = eventually("who comes after is served", || get(&address, "/gbdx/auth/v1/validate_token").ok());
    assert_eq!(answer.status, 200, "{}", answer.text());
}
