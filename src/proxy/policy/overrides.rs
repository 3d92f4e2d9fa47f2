//! What tells some servers another method or path than the request line does. Pure.
//!
//! Looked for where a route has rules or a client key is narrow, since both judge the request line; and in trailers, where
//! none of it has any business. A form's body is not looked into: `_method=DELETE` there is seen by nobody here.

use hyper::header::HeaderName;

use crate::path_rules::decode;

/// Fields that give another path, by servers that take them without a word that [`is_override`] knows them by.
/// CGI gateways and gunicorn (`Script-Name`, `Path-Info`), nginx (`X-Accel-*`), Apache and others (`X-Sendfile`), WebDAV
/// (`Destination`, to where a MOVE or COPY leads), and what is seen in front of old application servers.
const OTHER_PATHS: [&str; 17] = [
    "base-url",
    "destination",
    "path-info",
    "path-translated",
    "proxy-url",
    "request-uri",
    "script-name",
    "script-url",
    "uri",
    "url",
    "x-base-url",
    "x-http-destinationurl",
    "x-path-info",
    "x-proxy-url",
    "x-request-uri",
    "x-script-name",
    "x-sendfile",
];

/// Fields that give another method, likewise.
const OTHER_METHODS: [&str; 5] = ["request-method", "x-method", "x-http-verb", "x-request-method", "method"];

/// Whether a field tells some servers another method or path: `X-HTTP-Method-Override`, `X-Original-URL`,
/// `X-Envoy-Original-Path`, and their kin. Every character that is neither letter nor digit is taken for `-`, as CGI has
/// only `_` for all of them.
pub(crate) fn is_override(name: &HeaderName) -> bool {
    let name = name.as_str();
    if name == "access-control-request-method" {
        return false; // a preflight's, which asks, and is let in from nowhere
    }
    let is_odd = |byte: u8| !byte.is_ascii_alphanumeric() && byte != b'-';
    if name.bytes().any(is_odd) {
        let folded: String = name.bytes().map(|byte| if is_odd(byte) { '-' } else { char::from(byte) }).collect();
        return names_another(&folded);
    }
    names_another(name)
}

/// Whether it is another proxy's word on the client's request: `X-Forwarded-Host` and its kin, which never go up, and so
/// tell no server anything.
pub(crate) fn is_of_another_proxy(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded") || name.as_str().starts_with("x_forwarded")
}

fn names_another(name: &str) -> bool {
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    let says_other = has(&["original", "originating", "override", "rewrite", "rewritten", "forwarded", "tunnel"]);
    (says_other && has(&["method", "verb", "url", "uri", "path", "prefix", "host", "query"]))
        || (name.starts_with("x-http") && has(&["method"]))
        || name.starts_with("x-accel-")
        || name.starts_with("x-sendfile")
        || OTHER_PATHS.contains(&name)
        || OTHER_METHODS.contains(&name)
}

/// Names of parameters that give another method, without case and without what is neither letter nor digit.
const PARAMETERS: [&str; 6] =
    ["httpmethod", "httpmethodoverride", "methodoverride", "xhttpmethod", "xhttpmethodoverride", "xmethodoverride"];

/// Methods that a parameter called `method`, which is an ordinary one with many APIs, may ask for.
const METHODS: [&str; 10] = ["get", "head", "post", "put", "patch", "delete", "options", "move", "copy", "merge"];

/// Nobody means a query that is encoded more often than this.
const MOST_DECODINGS: usize = 8;

/// Whether a query has a parameter that tells some servers another method: `_method` in any spelling (of Rails, Symfony,
/// Laravel, Spring, Express, WordPress, Salesforce and their kin), and `method` with a method's name. One that is encoded
/// over and over counts as such.
pub(crate) fn query_overrides_method(query: &str) -> bool {
    let mut query = query.as_bytes().to_vec();
    for _ in 0..MOST_DECODINGS {
        // after each round, since servers differ in how often they decode, and whether before or after they divide
        if query.split(|byte| matches!(byte, b'&' | b';' | b'?' | b'#')).any(is_override_parameter) {
            return true;
        }
        let mut next = Vec::with_capacity(query.len());
        let mut at = 0;
        while at < query.len() {
            let (byte, width) = decode(&query[at..]);
            next.push(byte);
            at += width;
        }
        if next.len() == query.len() {
            return false;
        }
        query = next;
    }
    true
}

fn is_override_parameter(parameter: &[u8]) -> bool {
    let mut halves = parameter.splitn(2, |byte| *byte == b'=');
    let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
    // `_method[]` and `_method[x]` are lists and tables of PHP and Rails
    let end = name.iter().skip(1).position(|byte| *byte == b'[').map_or(name.len(), |at| at + 1);
    let letters = |bytes: &[u8]| -> String {
        bytes
            .iter()
            .filter(|byte| byte.is_ascii_alphanumeric())
            .map(|byte| char::from(byte.to_ascii_lowercase()))
            .collect()
    };
    let short = letters(&name[..end]);
    if short == "method" {
        // PHP reads a dot, a blank and a bracket in a name as `_`
        let is_plain = name[..end].eq_ignore_ascii_case(b"method");
        return !is_plain || METHODS.contains(&letters(value).as_str());
    }
    PARAMETERS.contains(&short.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_field(name: &str) -> bool {
        is_override(&HeaderName::from_bytes(name.as_bytes()).unwrap())
    }

    const FIELDS: [&str; 24] = [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-Method",
        "X-Original-HTTP-Method",
        "HTTP-Method-Override",
        "X-HTTP-Verb-Override",
        "X-Method",
        "X-Original-URL",
        "X-Original-URI",
        "X-Original-Path",
        "X-Rewrite-URL",
        "X-Override-URL",
        "X-Forwarded-Uri",
        "X-Forwarded-Prefix",
        "X-Forwarded-Path",
        "X-Forwarded-Method",
        "X-Envoy-Original-Path",
        "X-MS-Original-URL",
        "X-Script-Name",
        "Script-Name",
        "X-Accel-Redirect",
        "X-HTTP-Host-Override",
        "Destination",
    ];

    #[test]
    fn fields_of_every_days_requests_override_nothing() {
        let fields = "accept accept-encoding accept-language access-control-request-method authorization cache-control \
            content-length content-type cookie date host if-match if-none-match if-modified-since link origin prefer \
            range referer te trailer transfer-encoding upgrade upgrade-insecure-requests user-agent via x-api-key \
            x-requested-with x-request-id x-correlation-id x-amz-date x-amz-content-sha256 x-amz-copy-source \
            x-goog-user-project x-ms-version x-csrf-token traceparent tracestate soapaction sec-fetch-mode \
            sec-websocket-key grpc-timeout last-event-id idempotency-key x-payment-method x-api-path depth overwrite";
        for name in fields.split_whitespace() {
            assert!(!is_field(name), "{name}");
        }
    }

    #[test]
    fn a_parameter_that_overrides_the_method_is_seen_in_every_spelling() {
        let yes = [
            "_method=DELETE",
            "a=b&_method=DELETE",
            "a=b;_method=DELETE",
            "_Method=delete",
            "%5Fmethod=DELETE",
            "%255fmethod=DELETE",
            "_m%65thod=DELETE",
            "_method%3DDELETE",
            "a=b%26_method=DELETE",
            "a=b%253b_method=DELETE",
            "?_method=DELETE",
            "_method",
            "_method[]=DELETE",
            "_method%5B0%5D=DELETE",
            "+_method=DELETE",
            "%20_method=DELETE",
            ".method=DELETE",
            "[method=DELETE",
            "_method%00=DELETE",
            "_HttpMethod=PATCH",
            "$httpMethod=DELETE",
            "x-http-method-override=PUT",
            "method=delete",
            "method[]=DELETE",
            "a&METHOD=%44ELETE",
            "x=%4%3%3%3%3%3%3%3%3%31",
        ];
        for query in yes {
            assert!(query_overrides_method(query), "{query}");
        }
        let no = ["", "a=b", "method=flickr.photos.search", "methods=GET", "x_method=a", "a=_method", "q=%26", "%"];
        for query in no {
            assert!(!query_overrides_method(query), "{query}");
        }
    }

    /// What a gateway makes of a field's name: CGI's variable, as some make it of every character.
    fn cgi(name: &str) -> String {
        name.chars().map(|char| if char.is_ascii_alphanumeric() { char.to_ascii_uppercase() } else { '_' }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_spelling_of_an_override_gets_by(
            field in proptest::sample::select(&FIELDS[..]), choices in proptest::collection::vec(0..5_usize, 32)
        ) {
            let spelled: String = field.chars().zip(choices.iter().cycle()).map(|(char, choice)| match (char, choice) {
                ('-', choice) => ['-', '_', '.', '~', '!'][*choice],
                (char, 0..=2) => char.to_ascii_lowercase(),
                (char, _) => char.to_ascii_uppercase(),
            }).collect();
            prop_assert_eq!(cgi(&spelled), cgi(field));
            prop_assert!(is_field(&spelled), "{}", spelled);
        }

        #[test]
        fn however_often_it_is_encoded_a_parameter_is_seen(times in proptest::collection::vec(0..3_usize, 7)) {
            let encoded = |(byte, times): (u8, &usize)| match times {
                0 => char::from(byte).to_string(),
                times => format!("%{}{byte:02x}", "25".repeat(times - 1)),
            };
            let name: String = "_method".bytes().zip(&times).map(encoded).collect();
            prop_assert!(query_overrides_method(&format!("a=b&{name}=DELETE")), "{}", name);
        }

        #[test]
        fn no_query_makes_it_panic(query: String) {
            let _ = query_overrides_method(&query);
        }
    }
}
