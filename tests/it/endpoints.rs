//! Where a refresh token goes when the endpoints in the configuration are edited.

use valetd::stand_in::{Options, Provider};

use crate::support::lab::{self, Server};
use crate::support::upstreams::Witness;
use crate::support::{Home, eventually, words};

#[test]
fn an_edited_endpoint_never_gets_the_refresh_token_and_going_back_works_again() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, lab::EAGER, "", "");
    let daemon = home.start();
    daemon.until("lab", "usable");
    let good = lab::config(&server, lab::EAGER, "", "");
    let elsewhere = Witness::start();
    let revocation = server.revocation_endpoint().expect("the stand-in of GDH has one");
    let token = server.token_endpoint();
    let cognito =
        format!("grant = \"cognito_initiate_auth\"\ncognito_endpoint = \"{}/\"\n{}", elsewhere.url, lab::EAGER);
    let edits = [
        ("the revocation", good.replace(&revocation, &format!("{}/revoke", elsewhere.url))),
        ("another grant's endpoint", lab::config(&server, &cognito, "", "")),
        ("the token endpoint", good.replace(&token, &format!("{}/token", elsewhere.url))),
    ];
    for (case, edited) in edits {
        assert_ne!(edited, good, "{case}");
        home.write_config(&edited);
        assert!(home.run(&["reload"]).status.success(), "{case}: {}", daemon.log());
        let account = daemon.until("lab", "sign-in-required");
        assert_eq!(account["why_code"], "issued-elsewhere", "{case}: {account:#}");
        assert!(!lab::ask_for_renewal(&daemon), "{case}");
        daemon.until_logged(&elsewhere.url);
        home.write_config(&good);
        assert!(home.run(&["reload"]).status.success(), "{case}: {}", daemon.log());
        daemon.until("lab", "usable");
    }
    assert_eq!(elsewhere.seen(), "", "nothing was sent there");
}

#[test]
fn a_sign_out_does_not_tell_an_edited_endpoint_and_says_so() {
    for with_daemon in [true, false] {
        let server = Server::start(Provider::Gdh, Options::default());
        let home = lab::home(&server, "", "", "");
        let elsewhere = Witness::start();
        let revocation = server.revocation_endpoint().expect("the stand-in of GDH has one");
        let edited = lab::config(&server, "", "", "").replace(&revocation, &format!("{}/revoke", elsewhere.url));
        home.write_config(&edited);
        let daemon = with_daemon.then(|| home.start());
        if let Some(daemon) = &daemon {
            daemon.until("lab", "sign-in-required");
        }
        let output = home.run(&["logout", "lab"]);
        assert!(output.status.success(), "{}", words(&output));
        let said = words(&output);
        assert!(said.contains("not revoked") && said.contains(&elsewhere.url), "{said}");
        assert!(!home.path("state/valetd/lab.json").exists(), "and it is forgotten here");
        assert_eq!(elsewhere.seen(), "", "nothing was sent there");
    }
}

#[test]
fn a_record_of_an_earlier_valetd_goes_on_and_is_bound_by_its_first_renewal() {
    let server = Server::start(Provider::Gdh, Options::default());
    let home = lab::home(&server, lab::EAGER, "", "");
    let file = home.path("state/valetd/lab.json");
    let mut record = read_record(&home);
    assert!(record.as_object_mut().expect("an object").remove("others").is_some(), "{record:#}");
    std::fs::write(&file, record.to_string()).expect("an earlier record");
    let daemon = home.start();
    daemon.until("lab", "usable");
    eventually("it is bound now", || read_record(&home).get("others").cloned());
}

// --- the stage -------------------------------------------------------------------------------------------------------

fn read_record(home: &Home) -> serde_json::Value {
    let text = std::fs::read_to_string(home.path("state/valetd/lab.json")).expect("a record");
    serde_json::from_str(&text).expect("JSON")
}
