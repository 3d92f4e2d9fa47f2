//! The status document once more, as numbers for Prometheus (its text format 0.0.4). Pure.

use std::fmt::{self, Write};

use super::report::{State, StatusReport};
use crate::config::RouteName;
use crate::stats::{Histogram, Stats, StatusClass};

/// What `Content-Type` says of the text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes the document as metrics, and with it the routes' latency histograms.
pub(super) fn encode(report: &StatusReport, stats: &Stats) -> String {
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
    text.family("valetd_requests_refused_root_total", "counter", "Of these, root's, where clients does not name root.");
    text.sample("valetd_requests_refused_root_total", &[], daemon.refused_root);
    if let Some(audit) = &daemon.audit {
        text.family("valetd_audit_writable", "gauge", "Whether the audit could be written when it was last tried.");
        text.sample("valetd_audit_writable", &[], u8::from(audit.trouble.is_none()));
        text.family("valetd_audit_lines_total", "counter", "Lines of the audit that were written.");
        text.sample("valetd_audit_lines_total", &[], audit.written);
        text.family("valetd_audit_dropped_total", "counter", "Lines of the audit that were lost.");
        text.sample("valetd_audit_dropped_total", &[], audit.dropped);
        text.family("valetd_audit_refused_total", "counter", "Requests refused for want of the required audit.");
        text.sample("valetd_audit_refused_total", &[], audit.refused);
    }

    let store = &report.daemon.store;
    text.family("valetd_store_sealed", "gauge", "Whether credentials are encrypted on the disk.");
    text.sample("valetd_store_sealed", &[], u8::from(store.sealed));
    text.family("valetd_store_locked", "gauge", "Whether the store's key is away, and nothing can be read or saved.");
    text.sample("valetd_store_locked", &[], u8::from(store.locked.is_some()));

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
    text.family("valetd_route_answer_seconds", "histogram", "From a request's head to its answer's, by status class.");
    for route in &report.routes {
        let Some(name) = RouteName::new(&route.name) else { continue };
        let numbers = stats.route(&name);
        for class in StatusClass::ALL {
            let histogram = numbers.latency.of(class);
            // an empty class says nothing but its name
            if histogram.count() > 0 {
                text.histogram(
                    "valetd_route_answer_seconds",
                    &[("route", &route.name), ("class", class.name())],
                    &histogram,
                );
            }
        }
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

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut below = 0;
        for (bound, count) in &histogram.buckets {
            below += count;
            let bound = bound.map_or("+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", &*bound)]).collect();
            self.sample(&format!("{name}_bucket"), &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum.as_secs_f64());
        self.sample(&format!("{name}_count"), labels, below);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn every_sample_follows_the_type_of_its_family() {
        let stats = Stats::default();
        stats.route(&RouteName::new("gbdx").unwrap()).answered(200, Duration::from_millis(3));
        let text = encode(&report(), &stats);
        let mut family = "";
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(declared) => family = declared.split(' ').next().unwrap(),
                None if line.starts_with("# HELP ") => {}
                None => {
                    let (sample, value) = line.rsplit_once(' ').unwrap();
                    let name = sample.split('{').next().unwrap();
                    let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
                    assert!(name == family || part == Some(family), "{line}");
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
            "valetd_route_answer_seconds_bucket{route=\"gbdx\",class=\"2xx\",le=\"0.002\"} 0\n",
            "valetd_route_answer_seconds_bucket{route=\"gbdx\",class=\"2xx\",le=\"0.004\"} 1\n",
            "valetd_route_answer_seconds_bucket{route=\"gbdx\",class=\"2xx\",le=\"+Inf\"} 1\n",
            "valetd_route_answer_seconds_sum{route=\"gbdx\",class=\"2xx\"} 0.003\n",
            "valetd_route_answer_seconds_count{route=\"gbdx\",class=\"2xx\"} 1\n",
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
