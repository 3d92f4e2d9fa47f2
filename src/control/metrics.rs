//! The status document once more, as numbers for Prometheus (its text format 0.0.4). Pure.

use std::fmt::{self, Write};

use super::report::{State, StatusReport};

/// What `Content-Type` says of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes the document as metrics.
pub fn encode(report: &StatusReport) -> String {
    let mut text = Text(String::new());
    let daemon = &report.daemon;
    text.family("valetd_build_info", "gauge", "Always 1; the label says which version runs.");
    text.sample("valetd_build_info", &[("version", &daemon.version)], 1);
    text.family("valetd_uptime_seconds", "gauge", "Time since the daemon started, sleep included.");
    text.sample("valetd_uptime_seconds", &[], daemon.uptime_seconds);
    text.family("valetd_config_problems", "gauge", "Problems that keep the configuration file from being used.");
    text.sample("valetd_config_problems", &[], daemon.config_problems.len());
    text.family("valetd_connections_open", "gauge", "Connections open to the proxy.");
    text.sample("valetd_connections_open", &[], daemon.connections);
    text.family("valetd_requests_refused_total", "counter", "Requests refused before they reached a route.");
    text.sample("valetd_requests_refused_total", &[], daemon.refused);

    text.family("valetd_account_usable", "gauge", "Whether requests get a token now.");
    for account in &report.accounts {
        text.sample("valetd_account_usable", &[("account", &account.id)], u8::from(account.usable));
    }
    text.family("valetd_account_sign_in_required", "gauge", "Whether a person has to sign in.");
    for account in &report.accounts {
        let required = u8::from(account.state == State::SignInRequired);
        text.sample("valetd_account_sign_in_required", &[("account", &account.id)], required);
    }
    text.family("valetd_account_failures", "gauge", "Failed renewals since the last success.");
    for account in &report.accounts {
        text.sample("valetd_account_failures", &[("account", &account.id)], account.failures);
    }
    text.family("valetd_account_renewals_total", "counter", "Renewals that succeeded.");
    for account in &report.accounts {
        text.sample("valetd_account_renewals_total", &[("account", &account.id)], account.renewals);
    }
    text.family("valetd_account_token_requests_total", "counter", "Requests to the token endpoint.");
    for account in &report.accounts {
        text.sample("valetd_account_token_requests_total", &[("account", &account.id)], account.token_requests);
    }
    text.family("valetd_account_usable_until_seconds", "gauge", "Until when the token is handed out, Unix time.");
    for account in &report.accounts {
        if let Some(until) = account.usable_until {
            text.sample("valetd_account_usable_until_seconds", &[("account", &account.id)], until.unix());
        }
    }
    text.family(
        "valetd_refresh_token_expires_seconds",
        "gauge",
        "When the refresh token is expected to die, Unix time.",
    );
    for account in &report.accounts {
        if let Some(at) = account.credential.as_ref().and_then(|credential| credential.refresh_expires_at) {
            text.sample("valetd_refresh_token_expires_seconds", &[("account", &account.id)], at.unix());
        }
    }
    text.family("valetd_credential_saved", "gauge", "Whether the newest credential is on the disk.");
    for account in &report.accounts {
        if let Some(credential) = &account.credential {
            text.sample("valetd_credential_saved", &[("account", &account.id)], u8::from(credential.saved));
        }
    }

    text.family("valetd_route_requests_total", "counter", "Requests that reached the route.");
    for route in &report.routes {
        text.sample("valetd_route_requests_total", &[("route", &route.name)], route.requests);
    }
    text.family("valetd_route_requests_open", "gauge", "Requests under way.");
    for route in &report.routes {
        text.sample("valetd_route_requests_open", &[("route", &route.name)], route.open);
    }
    text.family("valetd_route_errors_total", "counter", "Answers that valetd made itself.");
    for route in &report.routes {
        text.sample("valetd_route_errors_total", &[("route", &route.name)], route.errors);
    }
    text.family("valetd_route_rejected_total", "counter", "401s that the upstream answered to our token.");
    for route in &report.routes {
        text.sample("valetd_route_rejected_total", &[("route", &route.name)], route.rejected);
    }
    text.family("valetd_route_replayed_total", "counter", "Requests sent again after a 401.");
    for route in &report.routes {
        text.sample("valetd_route_replayed_total", &[("route", &route.name)], route.replayed);
    }
    text.0
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes everything");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(self.0, "{label}=\"{text}\"").expect("a String takes everything");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        writeln!(self.0, " {value}").expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn every_sample_follows_the_type_of_its_family() {
        let text = encode(&report());
        let mut family = "";
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(declared) => family = declared.split(' ').next().unwrap(),
                None if line.starts_with("# HELP ") => {}
                None => {
                    let (sample, value) = line.rsplit_once(' ').unwrap();
                    assert_eq!(sample.split('{').next().unwrap(), family, "{line}");
                    assert!(value.parse::<f64>().is_ok(), "{line}");
                }
            }
        }
        for expected in [
            "valetd_build_info{version=\"0.1.0\"} 1\n",
            "valetd_account_usable{account=\"gbdx\"} 1\nvaletd_account_usable{account=\"gdh\"} 0\n",
            "valetd_account_sign_in_required{account=\"gdh\"} 1\n",
            "valetd_account_usable_until_seconds{account=\"gbdx\"} 1790002460\n",
            "valetd_route_requests_total{route=\"gbdx\"} 0\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let mut text = Text(String::new());
        text.sample("m", &[("a", "x\"} 1\n\\")], 2);
        assert_eq!(text.0, "m{a=\"x\\\"} 1\\n\\\\\"} 2\n");
    }
}
