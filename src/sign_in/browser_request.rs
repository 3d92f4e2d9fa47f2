//! What a request to the redirect URI's listener is: the browser that comes back, or its noise. Pure.
//!
//! Anybody on this machine, and any page in its browsers, can send requests here. One alone ends the wait: a navigation to
//! our path, under our name, with our `state`.

use hyper::header::{HOST, HeaderMap, HeaderName};
use hyper::{Method, Uri};

use super::authorization_response::AuthorizationResponse;

/// Where the browser is sent once the code is out of its address bar.
pub(super) const RESULT_PATH: &str = "/valetd/signed-in";

/// What the listener stands for.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// The redirect URI's host and port: what `Host` has to say.
    pub(super) authority: String,
    /// The redirect URI's path.
    pub(super) path: String,
    /// That of the authorization request.
    pub(super) state: String,
}

/// What a request is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    /// The authorization response that is waited for.
    Response(AuthorizationResponse),
    /// An authorization response to another request, or to none.
    Foreign,
    /// The page that says how it ended.
    Result,
    /// A browser's own wish, which comes beside the page.
    Favicon,
    /// Another method than GET.
    OtherMethod,
    /// Nobody navigates here: a script, a frame, a prefetch.
    NoNavigation,
    /// Another name than ours: DNS rebinding.
    OtherHost,
    /// Nothing that is here.
    Nothing,
}

/// Judges a request's head.
pub(super) fn judge(method: &Method, target: &Uri, fields: &HeaderMap, expected: &Expected) -> Asked {
    let text = |name: HeaderName| {
        let mut all = fields.get_all(name).iter().map(|value| value.to_str().unwrap_or("?"));
        (all.next(), all.next())
    };
    match text(HOST) {
        (Some(host), None) if host.eq_ignore_ascii_case(&expected.authority) => {}
        _ => return Asked::OtherHost,
    }
    if *method != Method::GET {
        return Asked::OtherMethod;
    }
    match target.path() {
        RESULT_PATH => return Asked::Result,
        "/favicon.ico" => return Asked::Favicon,
        path if path != expected.path => return Asked::Nothing,
        _ => {}
    }
    let said = |name: &'static str| text(HeaderName::from_static(name)).0;
    // Fetch Metadata Request Headers: browsers that know them send them to loopback, too
    let navigates = said("sec-fetch-mode").is_none_or(|mode| mode == "navigate");
    let is_for_later = said("sec-purpose").or(said("purpose")).is_some_and(|why| why.contains("prefetch"));
    if !navigates || is_for_later {
        return Asked::NoNavigation;
    }
    // a path and no query is somebody who looks what is here
    let Some(query) = target.query() else { return Asked::Foreign };
    let response = AuthorizationResponse::read(&format!("?{query}"));
    match &response.state {
        Some(state) if *state == expected.state => Asked::Response(response),
        _ => Asked::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::super::authorization_response::Outcome;
    use super::*;
    use crate::secret::Secret;

    fn asked(method: &str, target: &str, fields: &[(&'static str, &'static str)]) -> Asked {
        let expected =
            Expected { authority: "localhost:8400".to_owned(), path: "/callback".to_owned(), state: "s1".to_owned() };
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        judge(&method.parse().unwrap(), &target.parse().unwrap(), &map, &expected)
    }

    #[test]
    fn only_a_navigation_to_our_path_under_our_name_with_our_state_is_the_answer() {
        let ours = [("host", "localhost:8400")];
        let with = |name, value| [("host", "localhost:8400"), (name, value)];
        let answer = Asked::Response(AuthorizationResponse {
            state: Some("s1".to_owned()),
            issuer: None,
            outcome: Outcome::Code(Secret::new("c")),
        });
        let path = "/callback?code=c&state=s1";
        let rows: [(&str, Asked, &Asked); 22] = [
            ("the answer", asked("GET", path, &ours), &answer),
            ("a browser's navigation", asked("GET", path, &with("sec-fetch-mode", "navigate")), &answer),
            ("in capitals", asked("GET", path, &[("host", "LOCALHOST:8400")]), &answer),
            ("a script's request", asked("GET", path, &with("sec-fetch-mode", "cors")), &Asked::NoNavigation),
            ("an image", asked("GET", path, &with("sec-fetch-mode", "no-cors")), &Asked::NoNavigation),
            ("a prefetch", asked("GET", path, &with("sec-purpose", "prefetch;prerender")), &Asked::NoNavigation),
            ("an older prefetch", asked("GET", path, &with("purpose", "prefetch")), &Asked::NoNavigation),
            ("another state", asked("GET", "/callback?code=c&state=s2", &ours), &Asked::Foreign),
            ("a longer state", asked("GET", "/callback?code=c&state=s11", &ours), &Asked::Foreign),
            ("no state", asked("GET", "/callback?code=c", &ours), &Asked::Foreign),
            ("two states", asked("GET", "/callback?code=c&state=s2&state=s1", &ours), &Asked::Foreign),
            ("a stranger's refusal", asked("GET", "/callback?error=access_denied", &ours), &Asked::Foreign),
            ("the bare path", asked("GET", "/callback", &ours), &Asked::Foreign),
            ("another name", asked("GET", path, &[("host", "evil.example:8400")]), &Asked::OtherHost),
            ("another port", asked("GET", path, &[("host", "localhost:8401")]), &Asked::OtherHost),
            ("no name", asked("GET", path, &[]), &Asked::OtherHost),
            ("two names", asked("GET", path, &with("host", "localhost:8400")), &Asked::OtherHost),
            ("a form", asked("POST", path, &ours), &Asked::OtherMethod),
            ("a scanner's look", asked("HEAD", path, &ours), &Asked::OtherMethod),
            ("a favicon", asked("GET", "/favicon.ico", &ours), &Asked::Favicon),
            ("the result", asked("GET", RESULT_PATH, &ours), &Asked::Result),
            ("somewhere else", asked("GET", "/", &ours), &Asked::Nothing),
        ];
        for (case, asked, expected) in rows {
            assert_eq!(&asked, expected, "{case}");
        }
    }
}
