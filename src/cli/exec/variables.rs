//! What a command of `exec` finds in its environment of valetd's routes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::config::RouteName;
use crate::control::report::StatusReport;
use crate::secret::Secret;

/// The URL of an address that the daemon has named.
pub(super) fn base_url(address: &str) -> String {
    match address.strip_prefix("unix:") {
        // as nginx writes it, like the status
        Some(path) => format!("http://unix:{path}:"),
        None => format!("http://{address}"),
    }
}

/// What the command finds in its environment, and what it finds there no more. `own` is an address of its own, and the
/// routes there. Without one, all routes have a variable, since the command may know more of them than were waited for.
pub(super) fn variables(
    report: &StatusReport,
    own: Option<(&str, &[RouteName])>,
    key: &Secret,
    key_in_url: bool,
) -> Vec<(String, Option<String>)> {
    let mut variables = Vec::new();
    let in_url = if key_in_url { format!("/{}", key.expose()) } else { String::new() };
    variables.extend(own.map(|(base, _)| ("VALETD_URL".to_owned(), Some(format!("{base}{in_url}")))));
    for route in &report.routes {
        let variable = variable_of(&route.name);
        if let Some((base, names)) = own {
            if names.iter().any(|name| name.as_str() == route.name) {
                variables.push((variable, Some(format!("{base}{in_url}/{}", route.name))));
            } else if variable != "VALETD_URL" && !names.iter().any(|name| variable_of(name.as_str()) == variable) {
                // `a_b` must not take the variable of `a-b` away
                variables.push((variable, None));
            }
            continue;
        }
        let Some(url) = route.urls.first() else { continue };
        if variables.is_empty()
            && let Some(base) = url.strip_suffix(&format!("/{}/", route.name))
        {
            variables.push(("VALETD_URL".to_owned(), Some(format!("{base}{in_url}"))));
        }
        let prefix = format!("/{}/", route.name);
        let url = url.replacen(&prefix, &format!("{in_url}{prefix}"), 1);
        variables.push((variable, Some(url.trim_end_matches('/').to_owned())));
    }
    variables.push(("VALETD_KEY".to_owned(), Some(key.expose().to_owned())));
    variables
}

fn variable_of(route: &str) -> String {
    format!("{}_URL", route.to_ascii_uppercase().replace('-', "_"))
}

/// What the URLs in a command's environment may call this machine, and what people write in their place.
const LOOPBACK: [&str; 2] = ["localhost", "127.0.0.1"];

/// Whom the URLs in a command's environment name; an IPv6 address in both spellings, as tools compare either.
pub(super) fn hosts(variables: &[(String, Option<String>)]) -> BTreeSet<String> {
    let urls = variables.iter().filter_map(|(_, value)| value.as_deref()?.strip_prefix("http://"));
    let authorities = urls.filter(|rest| !rest.starts_with("unix:")).filter_map(|rest| rest.split('/').next());
    let mut hosts = BTreeSet::new();
    for authority in authorities {
        match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => hosts.extend([address.to_owned(), format!("[{address}]")]),
            None => hosts.extend(authority.split(':').next().map(str::to_owned)),
        }
    }
    hosts
}

/// Keeps tools that are told of a proxy from sending it what is for valetd, the key included: curl, wget and Python send
/// it `localhost` as well.
pub(super) fn past_proxies(
    variable: impl Fn(&str) -> Option<String>,
    named: &BTreeSet<String>,
) -> Vec<(String, Option<String>)> {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    if !["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].into_iter().any(is_set) {
        return Vec::new();
    }
    let others = named.iter().map(String::as_str).filter(|host| !LOOPBACK.contains(host));
    let with_ours = |(name, other): (&str, &str)| {
        let before = variable(name).or_else(|| variable(other)).filter(|hosts| !hosts.trim().is_empty());
        let mut hosts: Vec<&str> = before.as_deref().map(|hosts| hosts.split(',').collect()).unwrap_or_default();
        let is_there = |wanted: &str| hosts.iter().any(|host| host.trim() == wanted || host.trim() == "*");
        let missing: Vec<&str> = LOOPBACK.into_iter().chain(others.clone()).filter(|host| !is_there(host)).collect();
        hosts.extend(missing);
        (name.to_owned(), Some(hosts.join(",")))
    };
    // tools look for either, most of them for the lower case first
    [("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")].map(with_ours).into()
}

/// A command's environment in lines, for people: the last word on each variable, and those that are taken out of the
/// present one (`is_set`). Nothing of the secrets is shown.
pub(super) fn shown(
    environment: &[(String, Option<String>)],
    secrets: &[&Secret],
    is_set: impl Fn(&str) -> bool,
) -> String {
    let last: BTreeMap<&str, Option<&str>> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    let mut text = String::new();
    for (name, value) in last {
        match value {
            Some(value) => {
                let hide = |value: String, secret: &&Secret| value.replace(secret.expose(), "[secret]");
                text.push_str(&format!("{name}={}\n", secrets.iter().fold(value.to_owned(), hide)));
            }
            None if is_set(name) => text.push_str(&format!("unset {name}\n")),
            None => {}
        }
    }
    text
}

/// Puts variables into a command's environment, and takes others out.
pub(super) fn apply(command: &mut Command, environment: Vec<(String, Option<String>)>) {
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::tests::report;

    #[test]
    fn every_route_has_a_variable_and_the_base_has_one() {
        let mut report = report();
        let mut rda = report.routes[0].clone();
        (rda.name, rda.urls) = ("gbdx-rda".to_owned(), vec!["http://localhost:8253/gbdx-rda/".to_owned()]);
        report.routes.push(rda);
        let key = Secret::new("vk_x");
        let expected = [
            ("VALETD_URL", "http://localhost:8253"),
            ("GBDX_URL", "http://localhost:8253/gbdx"),
            ("GBDX_RDA_URL", "http://localhost:8253/gbdx-rda"),
            ("VALETD_KEY", "vk_x"),
        ];
        type Rows = Vec<(String, Option<String>)>;
        let owned = |rows: &[(&str, &str)]| -> Rows {
            rows.iter().map(|(name, url)| ((*name).to_owned(), Some((*url).to_owned()))).collect()
        };
        assert_eq!(variables(&report, None, &key, false), owned(&expected));
        let with_key = [
            ("VALETD_URL", "http://localhost:8253/vk_x"),
            ("GBDX_URL", "http://localhost:8253/vk_x/gbdx"),
            ("GBDX_RDA_URL", "http://localhost:8253/vk_x/gbdx-rda"),
            ("VALETD_KEY", "vk_x"),
        ];
        assert_eq!(variables(&report, None, &key, true), owned(&with_key));
    }

    #[test]
    fn at_an_address_of_its_own_the_routes_that_were_named_have_a_variable_and_no_others() {
        let mut report = report();
        let mut rda = report.routes[0].clone();
        rda.name = "gbdx-rda".to_owned();
        report.routes.push(rda);
        let key = Secret::new("vk_x");
        let names = [RouteName::new("gbdx").unwrap()];
        let rows = variables(&report, Some(("http://127.0.0.1:40311", &names)), &key, false);
        let shown: Vec<_> = rows.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let expected = [
            ("VALETD_URL", Some("http://127.0.0.1:40311")),
            ("GBDX_URL", Some("http://127.0.0.1:40311/gbdx")),
            ("GBDX_RDA_URL", None),
            ("VALETD_KEY", Some("vk_x")),
        ];
        assert_eq!(shown, expected);
        let rows = variables(&report, Some((&base_url("unix:/run/x.sock"), &names)), &key, true);
        assert_eq!(rows[1].1.as_deref(), Some("http://unix:/run/x.sock:/vk_x/gbdx"));
    }

    #[test]
    fn a_route_that_was_not_named_takes_no_variable_away_that_it_would_have_had() {
        let mut report = report();
        for name in ["gbdx_rda", "gbdx-rda", "valetd"] {
            let mut route = report.routes[0].clone();
            route.name = name.to_owned();
            report.routes.push(route);
        }
        let names = [RouteName::new("gbdx-rda").unwrap()];
        let rows = variables(&report, Some(("http://127.0.0.1:40311", &names)), &Secret::new("vk_x"), false);
        let last = |name: &str| rows.iter().rfind(|(variable, _)| variable == name).map(|(_, value)| value.as_deref());
        assert_eq!(last("GBDX_RDA_URL"), Some(Some("http://127.0.0.1:40311/gbdx-rda")));
        assert_eq!(last("VALETD_URL"), Some(Some("http://127.0.0.1:40311")));
        assert_eq!(last("GBDX_URL"), Some(None));
    }

    #[test]
    fn no_proxy_is_shown_what_is_for_valetd() {
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<(&'a str, &'a str)>);
        let rows: [Row<'_>; 6] = [
            (&[("NO_PROXY", "x.example")], None),
            (&[("http_proxy", "")], None),
            (&[("http_proxy", "http://p:1")], Some(("localhost,127.0.0.1", "localhost,127.0.0.1"))),
            (
                &[("ALL_PROXY", "http://p:1"), ("NO_PROXY", "localhost")],
                Some(("localhost,127.0.0.1", "localhost,127.0.0.1")),
            ),
            (
                &[("HTTP_PROXY", "http://p:1"), ("no_proxy", "*"), ("NO_PROXY", "a, 127.0.0.1")],
                Some(("*", "a, 127.0.0.1,localhost")),
            ),
            (
                &[("http_proxy", "http://p:1"), ("no_proxy", "127.0.0.11,localhosts")],
                Some(("127.0.0.11,localhosts,localhost,127.0.0.1", "127.0.0.11,localhosts,localhost,127.0.0.1")),
            ),
        ];
        let none = BTreeSet::new();
        for (set, expected) in rows {
            let found = past_proxies(
                |name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()),
                &none,
            );
            let expected = expected.map(|(lower, upper)| [("no_proxy", lower), ("NO_PROXY", upper)]);
            let expected =
                expected.into_iter().flatten().map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
            assert_eq!(found, expected.collect::<Vec<_>>(), "{set:?}");
        }
        // a listener elsewhere is named by its address
        let url = |url: &str| ("X_URL".to_owned(), Some(url.to_owned()));
        let urls =
            [url("http://[::1]:8253/vk_x/lab"), url("http://lab.localhost:8253"), url("http://unix:/run/x.sock:/lab")];
        let named = hosts(&[&urls[..], &[url("http://192.0.2.7/lab"), ("GONE_URL".to_owned(), None)]].concat());
        assert_eq!(
            named.iter().map(String::as_str).collect::<Vec<_>>(),
            ["192.0.2.7", "::1", "[::1]", "lab.localhost"]
        );
        let found = past_proxies(|name| (name == "http_proxy").then(|| "http://p:1".to_owned()), &named);
        let all = "localhost,127.0.0.1,192.0.2.7,::1,[::1],lab.localhost";
        assert!(found.iter().all(|(_, value)| value.as_deref() == Some(all)), "{found:?}");
    }

    #[test]
    fn what_is_shown_of_an_environment_is_the_last_word_and_no_secret() {
        let set = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        let environment = [
            set("B", "1"),
            set("A_URL", "http://localhost/vk_x/a"),
            ("B".to_owned(), None),
            ("C".to_owned(), None),
            set("https_proxy", "http://exec:pass@127.0.0.1:1"),
        ];
        let (key, password) = (Secret::new("vk_x"), Secret::new("pass"));
        let text = shown(&environment, &[&key, &password], |name| name == "B");
        let expected = "A_URL=http://localhost/[secret]/a\nunset B\nhttps_proxy=http://exec:[secret]@127.0.0.1:1\n";
        assert_eq!(text, expected);
    }
}
